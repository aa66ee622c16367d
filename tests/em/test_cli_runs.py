"""`em runs`, `em show` and `em tail` on real runs, finished, live and killed."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from t9k import em
from t9k.em import progress
from t9k.em.cli.reading import shown_reading
from t9k.em.runs.follow import GrowingFile, last_point
from t9k.em.runs.record import read_record
from t9k.em.runs.summary import goal, sparkline

EM = [sys.executable, "-m", "t9k.em"]
TRAINING = """
import sys
from t9k import em
from t9k.em import progress
from t9k.em.cli.reading import shown_reading

run = em.create_run(name="live")
print("started", run.local, flush=True)
for step, line in enumerate(sys.stdin):
    if line.startswith("finish"):
        break
    if line.startswith("raise"):
        raise ValueError("no more data")
    print(line, end="", flush=True)
    run.log("train", {"loss": 1 / (step + 1)}, step=step)
run.finish()
"""


pytestmark = pytest.mark.usefixtures("directory")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    monkeypatch.setenv("EM_CAPTURE", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", TRAINING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    )
    assert process.stdout
    assert process.stdout.readline().startswith("started")
    with process:
        yield process
        process.kill()


def call(*args: str, code: int = 0) -> str:
    done = subprocess.run([*EM, *args], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def read_until(stream: IO[str], text: str) -> str:
    shown = ""
    while text not in shown:
        line = stream.readline()
        assert line, shown
        shown += line
    return shown


def make_run(name: str, **options: object) -> em.Run:
    with em.create_run(name=name, **options) as run:  # type: ignore[arg-type]
        for step, loss in enumerate([0.5, 0.125, 0.25]):
            run.log("train", {"loss": loss}, step=step, epoch=1)
    return run


def test_runs_lists_the_newest_first_with_state_and_last_metrics() -> None:
    first, second = make_run("first", labels=["a", "b"]), make_run("second", labels=["b"])
    with pytest.raises(ValueError, match="no"), em.create_run(name="third"):
        raise ValueError("no")
    lines = call("runs").splitlines()
    assert lines[0].split() == ["name", "state", "started", "duration", "last", "metrics"]
    assert [line.split()[1] for line in lines[1:]] == ["Failed", "Complete", "Complete"]
    assert lines[3].startswith(first.alternative_name)
    assert "train/loss 0.25" in lines[2]
    assert len(call("runs", "--limit", "1").splitlines()) == 2
    chosen = json.loads(call("runs", "--label", "b", "--state", "complete", "--name", "sec*", "--json"))
    assert [run["alternative_name"] for run in chosen] == [second.alternative_name]
    assert chosen[0]["last_metrics"] == {"train": {"loss": 0.25}}
    assert call("runs", "--name", "nothing*") == ""


def test_runs_goes_on_behind_a_run_that_cannot_be_read(directory: Path) -> None:
    make_run("good")
    bad = directory / ".em" / "runs" / "bad_261125_000000_aaaaaa"
    bad.mkdir()
    (bad / "metadata.yaml").write_text("[" * 100_000)
    done = subprocess.run([*EM, "runs"], capture_output=True, text=True, check=True)
    assert "good" in done.stdout
    assert "nested more than" in done.stderr


def test_show_run_has_parameters_best_values_and_outputs() -> None:
    artifact = em.create_artifact("weights")
    with em.create_run(name="shown", hparams={"lr": 0.1, "model": {"depth": 2}}, description="a\x1b[31mb") as run:
        for step, loss in enumerate([0.5, 0.125, math.nan, 0.25]):
            run.log("train", {"loss": loss, "\x1b]0;title\x07": 1, "accuracy": 1 - loss}, step=step)
        run.mark_output(artifact)
    shown = call("show", "shown")
    for text in ("model.depth  2", "lr           0.1", artifact.alternative_name, "a\\x1b[31mb", "\\x1b]0;title\\x07"):
        assert text in shown
    assert "\x1b" not in shown
    loss, accuracy = (
        next(line for line in shown.splitlines() if line.startswith(f"train/{m}")) for m in ("loss", "acc")
    )
    assert loss.split()[1:5] == ["0.25", "0.125", "1", "4"]
    assert accuracy.split()[1:5] == ["0.75", "0.875", "1", "4"]
    assert loss.endswith("█▁ ▃")
    data = json.loads(call("show", run.local, "--json"))
    assert data["hparams"] == {"lr": 0.1, "model": {"depth": 2}}
    assert data["metrics"][0] | {"spark": ""} == {
        "type": "train",
        "name": "loss",
        "points": 4,
        "last": 0.25,
        "last_step": 3,
        "best": 0.125,
        "best_step": 1,
        "spark": "",
    }


def test_show_finds_by_name_and_beginning_and_refuses_several() -> None:
    first = make_run("one")
    assert first.alternative_name in call("show", "one")
    assert first.alternative_name in call("show", first.alternative_name[:8])
    second = make_run("one")
    refused = call("show", "one", code=1)
    assert first.alternative_name in refused
    assert second.alternative_name in refused
    artifact = em.create_artifact("files")
    assert artifact.alternative_name in call("show", "files")
    assert "no run and no artifact 'two'" in call("show", "two", code=1)


def test_show_of_failed_run_has_the_error() -> None:
    with pytest.raises(ValueError, match="no"), em.create_run(name="failed"):
        raise ValueError("no\x1b[2J")
    assert "ValueError: no\\x1b[2J" in call("show", "failed")


def test_reading_changes_nothing_of_a_crashed_run(live: subprocess.Popen[str], directory: Path) -> None:
    assert live.stdin
    assert live.stdout
    live.stdin.write("one\n")
    read_until(live.stdout, "one")
    live.send_signal(signal.SIGKILL)
    live.wait()
    (folder,) = (directory / ".em" / "runs").iterdir()
    with open(folder / "metrics" / "train.yaml", "ab") as file:
        file.write(b'- {"metrics": {"lo')
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "stdout.log"}
    assert "Crashed" in call("runs")
    assert "Crashed" in call("show", "live")
    assert "Crashed after" in call("tail", "live", code=1)
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    ("end", "code", "status"), [("finish\n", 0, "Complete"), ("raise\n", 1, "Failed"), ("", 1, "Crashed")]
)
def test_tail_follows_a_live_run_to_its_end(live: subprocess.Popen[str], end: str, code: int, status: str) -> None:
    assert live.stdin
    live.stdin.write("before\x1b[31m \x1b[2J\n")
    with subprocess.Popen([*EM, "tail"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        assert tail.stdout
        assert tail.stderr
        shown = read_until(tail.stdout, "before \\x1b[2J\n")
        live.stdin.write("after\n")
        shown += read_until(tail.stdout, "train step 1  loss 0.5\n")
        if end:
            live.stdin.write(end)
        else:
            live.kill()
        live.wait()
        shown += tail.stdout.read()
        assert shown.count("train step 0  loss 1") == 1
        assert shown.count("after\n") == 1
        assert "\x1b" not in shown
        assert f"{status} after" in tail.stderr.read()
    assert tail.returncode == code


def test_tail_is_interrupted_without_a_traceback(
    live: subprocess.Popen[str], interrupt: Callable[[subprocess.Popen[str]], tuple[int, str]]
) -> None:
    assert live.stdin
    live.stdin.write("line\n")
    with subprocess.Popen([*EM, "tail", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tail:
        assert tail.stdout
        assert json.loads(tail.stdout.readline()) == {
            "log": f"started {Path('.em/runs').resolve()}/{os.listdir('.em/runs')[0]}"
        }
        assert interrupt(tail) == (130, "\nInterrupted\n")


def test_pipes_in_the_place_of_files_are_not_waited_for(directory: Path) -> None:
    run = make_run("pipes")
    os.mkfifo(os.path.join(run.local, "metrics", "val.yaml"))
    os.unlink(os.path.join(run.local, "stdout.log"))
    os.mkfifo(os.path.join(run.local, "stdout.log"))
    (directory / ".em" / "runs" / "bad_261125_000000_aaaaaa").mkdir()
    os.mkfifo(directory / ".em" / "runs" / "bad_261125_000000_aaaaaa" / "metadata.yaml")
    assert len(call("runs").splitlines()) == 2
    assert "train/loss" in call("show", "pipes")
    assert "train step 2" in call("tail", "pipes")


def test_growing_file_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = GrowingFile(str(path))
    assert file.read_lines() == b""
    path.write_bytes(b"one\ntw")
    assert file.read_lines() == b"one\n"
    path.write_bytes(b"one\ntwo\n")
    assert file.read_lines() == b"two\n"
    path.write_bytes(b"one\n")  # cut off
    assert file.read_lines() == b""
    path.write_bytes(b"one\n+\n")
    assert file.read_lines() == b"+\n"
    assert GrowingFile(str(path), tail_bytes=3).read_lines() == b"+\n"
    assert GrowingFile(str(path), tail_bytes=2).read_lines() == b"+\n"


def test_last_point_is_found_behind_a_torn_and_before_a_long_line(tmp_path: Path) -> None:
    run = em.create_run(name="long")
    run.log("train", {"loss": 1}, step=1)
    run.log("train", {f"{index}" * 30: index for index in range(10_000)}, step=2)
    run.finish()
    path = os.path.join(run.local, "metrics", "train.yaml")
    point = last_point(path)
    assert point
    assert point["at"]["step"] == 2
    with open(path, "ab") as file:
        file.write(b"- {torn")
    assert last_point(path) == point
    assert last_point(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize(
    ("metric", "wanted"),
    [("loss", "min"), ("valLoss", "min"), ("top1_acc", "max"), ("RMSE", "min"), ("F1", "max"), ("lr", None)],
)
def test_goal_is_told_by_the_name(metric: str, wanted: str | None) -> None:
    assert goal(metric) == wanted


def test_sparkline_of_odd_values() -> None:
    assert sparkline([]) == ""
    assert sparkline([math.nan, math.inf]) == "  "
    assert sparkline([-1.7e308, 0, 1.7e308]) == "▁▄█"
    assert sparkline([3, 3]) == "▁▁"
    assert sparkline([0, 1], is_ascii=True) == "_#"


def test_reading_tells_its_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "SILENT_S", 0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0)
    monkeypatch.delenv("EM_QUIET", raising=False)
    record = read_record(make_run("read").local)
    size_bytes = os.path.getsize(record.metrics_path("train"))
    with shown_reading([record]) as read:
        assert len(read(record, "train")) == 3
    assert capsys.readouterr().err == f"read: 1 of 1 files, {size_bytes} B of {size_bytes} B\n"

"""`em compare` and `em export`: what is written is read back by the formats' own readers."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from t9k import em
from t9k.em.runs.comparison import compare_runs
from t9k.em.runs.record import read_record

EM = [sys.executable, "-m", "t9k.em"]
Call = Callable[..., str]


pytestmark = pytest.mark.usefixtures("directory")


@pytest.fixture
def call() -> Call:
    def run(*args: str, code: int = 0, **environment: str) -> str:
        done = subprocess.run(
            [*EM, *args], capture_output=True, text=True, check=False, timeout=120, env=os.environ | environment
        )
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    return run


@pytest.fixture
def runs() -> list[em.Run]:
    made = []
    for name, lr in (("first", 0.1), ("second", 0.2)):
        with em.create_run(name=name, hparams={"lr": lr, "batch": 32}) as run:
            run.log("train", {"loss": lr, "step": 7}, step=1, epoch=0)
            run.log("train", {"loss": math.nan, "step": 8}, step=2, epoch=0)
            run.log("train", {"loss": lr / 4}, step=3)
            run.log("val", {"accuracy": 1 - lr}, step=3)
            run.log("system", {"cpu_percent": 5}, step=0)
        made.append(run)
    return made


def test_compare_shows_what_differs_and_marks_the_best(runs: list[em.Run], call: Call) -> None:
    lines = [re.split(r" {2,}", line.strip()) for line in call("compare", "first", "second").splitlines()]
    rows = {line[0]: line[1:] for line in lines}
    assert rows["hparams.lr"] == ["0.1", "0.2"]
    assert rows["train/loss best"] == ["0.025*", "0.05"]
    assert rows["val/accuracy best"] == ["0.9*", "0.8"]
    assert "1 parameter equal in all" in rows
    assert not [key for key in rows if "batch" in key or "status" in key or "cpu" in key or "train/step" in key]
    found = json.loads(call("compare", "first", "second", "--json"))
    assert found["names"] == [run.alternative_name for run in runs]
    assert found["fields"] == {"hparams.lr": [0.1, 0.2]}
    assert {metric["name"]: metric["winners"] for metric in found["metrics"]} == {"loss": [0], "accuracy": [0]}
    assert "two or more" in call("compare", "first", code=2)


def test_compare_tells_equal_numbers_of_other_types_and_absent_ones() -> None:
    records = []
    for hparams in ({"a": 1, "b": 1, "c": 2}, {"a": True, "c": 2}):
        with em.create_run(name="typed", hparams=hparams) as run:
            run.log("train", {"loss": 0.5}, step=0)
        records.append(read_record(run.local))
    found = compare_runs(records)
    assert found.fields == {"hparams.a": [1, True], "hparams.b": [1, None]}
    assert found.equal_params == 1
    assert found.metrics == []


def test_csv_has_a_row_for_each_log_call(runs: list[em.Run], call: Call) -> None:
    rows = list(csv.DictReader(call("export", "first", "second", "--format", "csv").splitlines()))
    assert len(rows) == 8
    assert list(rows[0]) == ["run", "type", "step", "epoch", "timestamp", "loss", "metrics.step", "accuracy"]
    assert [row["loss"] for row in rows[:4]] == ["0.1", "nan", "0.025", ""]
    assert [row["metrics.step"] for row in rows[:4]] == ["7", "8", "", ""]
    assert [row["epoch"] for row in rows[:4]] == ["0", "0", "", ""]
    assert {row["run"] for row in rows} == {run.alternative_name for run in runs}
    system = list(csv.DictReader(call("export", "first", "--format", "csv", "--type", "system").splitlines()))
    assert [row["cpu_percent"] for row in system] == ["5"]


def test_json_is_what_to_dict_returns(runs: list[em.Run], call: Call, directory: Path) -> None:
    call("export", "first", "--format", "json", "-o", "runs.json")
    (data,) = json.loads((directory / "runs.json").read_text())
    expected = em.load_run(runs[0].local).to_dict()
    del expected["metrics"]["system"]
    expected["metrics"]["train"][1]["metrics"]["loss"] = "NaN"
    assert data == json.loads(json.dumps(expected))
    assert os.listdir() != []
    assert [name for name in os.listdir() if "tmp" in name] == []


def test_parquet_is_read_back_by_pyarrow(runs: list[em.Run], call: Call) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    call("export", "first", "second", "--format", "parquet", "-o", "runs.parquet")
    table = parquet.read_table("runs.parquet")
    rows = table.to_pylist()
    assert [str(kind) for kind in table.schema.types[2:]] == ["int64", "int64", "timestamp[ms, tz=UTC]"] + [
        "double"
    ] * 3
    assert [row["loss"] for row in rows[4:6]] == pytest.approx([0.2, math.nan], nan_ok=True)
    assert [row["epoch"] for row in rows[:4]] == [0, 0, None, None]
    logged = em.load_run(runs[0].local).metrics["train"][0]["at"]["timestamp"]
    assert rows[0]["timestamp"].isoformat(timespec="milliseconds").replace("+00:00", "Z") == logged


def test_tensorboard_events_are_read_back_by_tensorboard(runs: list[em.Run], call: Call) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
    call("export", "first", "--format", "tensorboard", "-o", "logs")
    (file,) = Path("logs", runs[0].alternative_name).iterdir()
    events = [event for event in loader.LegacyEventFileLoader(str(file)).Load() if event.HasField("summary")]
    values = [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]
    assert values[0] == (1, "train/loss", pytest.approx(0.1))
    assert values[-1] == (3, "val/accuracy", pytest.approx(0.9))
    assert len(values) == 6
    assert events[0].wall_time == pytest.approx(read_record(runs[0].local).started_s, abs=1)
    assert "is there already" in call("export", "first", "--format", "tensorboard", "-o", "logs", code=1)


@pytest.mark.parametrize(("form", "package"), [("parquet", "pyarrow"), ("tensorboard", "tensorboard")])
def test_missing_package_is_an_error_that_says_so(
    runs: list[em.Run], call: Call, directory: Path, form: str, package: str
) -> None:
    (directory / "hidden" / package).mkdir(parents=True)
    (directory / "hidden" / package / "__init__.py").write_text("raise ImportError")
    path = f"{directory / 'hidden'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    said = call("export", "first", "--format", form, "-o", "out", code=1, PYTHONPATH=path)
    assert f"pip install {package}" in said
    assert not os.path.exists("out")
    assert "needs -o" in call("export", "first", "--format", form, code=2)


def test_failed_export_leaves_the_old_file(runs: list[em.Run], call: Call, directory: Path) -> None:
    (directory / "old.csv").write_text("old")
    os.truncate(os.path.join(runs[0].local, "metrics", "train.yaml"), 5 << 30)  # beyond what is read
    call("export", "first", "--format", "csv", "-o", "old.csv", code=1)
    assert (directory / "old.csv").read_text() == "old"
    assert [name for name in os.listdir() if "tmp" in name] == []


def test_forged_metrics_are_left_out_of_tables(call: Call) -> None:
    pytest.importorskip("pyarrow")
    with em.create_run(name="forged") as run:
        run.log("train", {"loss": 1}, step=1)
    with open(os.path.join(run.local, "metrics", "train.yaml"), "a") as file:
        file.write('- {"metrics": {"loss": {"a": 1}, "b": true, "c": 1e999}, "at": {"step": "x", "timestamp": [1]}}\n')
        huge = "9" * 400
        file.write(f'- {{"metrics": {{"loss": {huge}}}, "at": {{"step": 1, "timestamp": "soon"}}}}\n')
    rows = list(csv.reader(call("export", "forged", "--format", "csv").splitlines()))
    assert rows[2][2:] == ["", "", "", "", "", "inf"]
    call("export", "forged", "--format", "parquet", "-o", "forged.parquet")
    call("export", "forged", "--format", "json")
    assert "train/loss" in call("show", "forged")
    assert "forged" in call("runs")


def test_closed_pipe_ends_an_export_quietly() -> None:
    with em.create_run(name="long") as run:
        for step in range(20_000):
            run.log("train", {"loss": 0.5}, step=step)
    with subprocess.Popen(
        [*EM, "export", "long", "--format", "csv"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141

"""A run survives SIGKILL anywhere, other writers, a full disk and hostile surroundings.

EM_FAULT_POINTS sets the number of random points per operation, 25 by default.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import yaml
from t9k.em.errors import NotFoundError, StoreError
from t9k.em.run import create_run, load_run

POINTS = int(os.environ.get("EM_FAULT_POINTS", "25"))


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def _loop_log(ready: int) -> None:
    run = create_run(hparams={"lr": 1})
    os.write(ready, b"x")
    for step in range(1 << 30):
        run.log("train", {"loss": step}, step)


def _loop_update(ready: int) -> None:
    run = create_run(hparams={"lr": 1})
    os.write(ready, b"x")
    for step in range(1 << 30):
        run.params.update({"i": step, "lr": step})


def _loop_create(ready: int) -> None:
    os.write(ready, b"x")
    while True:
        create_run(hparams={"lr": 1})


def _loop_finish(ready: int) -> None:
    os.write(ready, b"x")
    while True:
        run = create_run(hparams={"lr": 1})
        run.log("train", {"loss": 1}, 1)
        run.finish()


@pytest.mark.parametrize("loop", [_loop_log, _loop_update, _loop_create, _loop_finish])
def test_sigkill_at_random_points_leaves_loadable_runs(parent: Path, loop: object) -> None:
    generator = random.Random(4)
    for _ in range(POINTS):
        shutil.rmtree(parent, ignore_errors=True)
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            try:
                loop(writer)  # type: ignore[operator]
            finally:
                os._exit(1)
        os.read(reader, 1)
        time.sleep(generator.random() * 0.03)
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        os.close(reader)
        os.close(writer)
        for path in parent.iterdir() if parent.exists() else ():
            _check(path)


def _check(path: Path) -> None:
    explanation = ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a torn line is repaired with a warning
        try:
            run = load_run(str(path))
        except NotFoundError as error:
            explanation = str(error)
    if not (path / "metadata.yaml").exists():
        assert "while it created the run" in explanation
        assert not list((path / "metrics").glob("*"))
        return
    assert run.status in ("Crashed", "Complete")
    if (path / "hyperparameters.yaml").exists():
        assert "lr" in run.params
    points = run.metrics.get("train", [])
    assert [point["at"]["step"] for point in points] in (list(range(len(points))), [1])
    for file in path.glob("*.yaml"):
        yaml.safe_load(file.read_text())


def test_two_processes_logging_to_one_run_tear_no_line(parent: Path) -> None:
    run = create_run()
    code = (
        "import sys\nfrom t9k.em.run import load_run\nr = load_run(sys.argv[1])\n"
        "for i in range(3000): r.log('train', {'a' * 50: i, 'who': int(sys.argv[2])}, i)\nr.finish()\n"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, run.local, str(index)]) for index in range(2)]
    for step in range(3000):
        run.log("train", {"a" * 50: step, "who": 2}, step)
    assert [other.wait(60) for other in others] == [0, 0]
    points = run.metrics["train"]
    for who in range(3):
        steps = [point["at"]["step"] for point in points if point["metrics"]["who"] == who]
        assert steps == list(range(3000))
    assert len(points) == 9000
    assert run.status == "Running"


@pytest.fixture
def small_disk(tmp_path: Path) -> object:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_one_warning_and_training_goes_on(small_disk: Path) -> None:
    code = (
        "import os, sys, warnings\nfrom t9k.em.run import create_run\nr = create_run()\nprint(r.local, flush=True)\n"
        "n = 0\n"
        "for i in range(6000):\n    r.log('train', {'loss': i}, i)\n"
        "open(os.environ['FREED'], 'w').close(); os.unlink(os.environ['BALLAST'])\n"
        "for i in range(6000, 6010): r.log('train', {'loss': i}, i)\n"
        "print('trained'); r.finish()\n"
    )
    (small_disk / "ballast").write_bytes(b"x" * (100 << 10))
    environ = os.environ | {
        "EM_RUN_PARENT_DIR": str(small_disk / "runs"),
        "EM_CAPTURE": "1",
        "BALLAST": str(small_disk / "ballast"),
        "FREED": os.devnull,
    }
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("trained\n")
    assert done.stderr.count("RuntimeWarning") == 1
    assert "No space left" in done.stderr
    run = load_run(done.stdout.splitlines()[0])
    assert run.status == "Complete"
    steps = [point["at"]["step"] for point in run.metrics["train"]]
    assert steps[-10:] == list(range(6000, 6010))
    assert len(steps) + yaml.safe_load(Path(run.local, "metadata.yaml").read_text())["lost_log_lines"] == 6010


def test_disk_that_stays_full_does_not_break_params_or_finish(small_disk: Path, tmp_path: Path) -> None:
    code = (
        "import os\nfrom t9k.em.run import create_run\nr = create_run()\n"
        "open(os.environ['FILL'], 'wb', buffering=0).write(b'x' * (1 << 20))\n"
        "for i in range(3000):\n    r.log('train', {'loss': i}, i)\n    r.params.i = i\n"
        "r.mark_input(type('Data', (), {'name': 'd'})())\nr.finish()\nprint('trained')\n"
    )
    environ = os.environ | {"EM_RUN_PARENT_DIR": str(small_disk / "runs"), "FILL": str(small_disk / "fill")}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert done.stderr.count("No space left") == 1


def test_read_only_parent_is_an_error_at_create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(folder))
    if not os.geteuid():  # root ignores modes
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
        if subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("a read-only file system cannot be mounted here")
    try:
        with pytest.raises(StoreError, match="cannot create"):
            create_run()
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True)


@pytest.mark.parametrize(
    "name", ["é中文🚀", "a b", "-rf", "$(x)", "a\u0301", "%s", "'\"`", "x" * 200, "👩\u200d💻", "می\u200cشود"]
)
def test_odd_names_and_texts_round_trip(name: str) -> None:
    run = create_run(name=name, labels=["\u202e", "\n", "\x00", "🚀"], description="\ud7ff\x85\u2028: [*a")
    run.log("train", {name: 1}, 1)
    run.finish()
    loaded = load_run(run.local)
    assert (loaded.name, loaded.labels, loaded.description) == (name, run.labels, run.description)
    assert list(loaded.metrics["train"][0]["metrics"]) == [name]

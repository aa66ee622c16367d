"""Run: its files, states, continuation, forks and threads."""

from __future__ import annotations

import math
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from t9k import em
from t9k.em.errors import AuthError, ConflictError, InvalidInputError, NotFoundError, StoreError
from t9k.em.run import Run, create_run, load_run


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("EM_ARTIFACT_PARENT_DIR", str(tmp_path / "artifacts"))
    return tmp_path / "runs"


@pytest.fixture
def run() -> Run:
    return create_run(name="cnn", hparams={"lr": 0.1}, labels=["Keras"], description="d")


def _read(run: Run, name: str) -> object:
    return yaml.safe_load(Path(run.local, name).read_text())


def _child(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    return done.stdout.strip()


def test_create_run_writes_the_documented_files(run: Run, parent: Path) -> None:
    assert re.fullmatch(r"cnn_\d{6}_\d{6}_[a-z0-9]{6}", run.alternative_name)
    assert Path(run.local) == parent / run.alternative_name
    run.log("training", {"loss": 0.5}, step=1, epoch=1)
    assert _read(run, "index.yaml") == {
        "hyperparameters": "hyperparameters.yaml",
        "platform": "platform.yaml",
        "git": "git.yaml",
        "log": "stdout.log",
        "metrics": {"train": "metrics/train.yaml"},
    }
    assert _read(run, "hyperparameters.yaml") == {"lr": 0.1}
    run.params.update({"epochs": 3})
    assert _read(run, "hyperparameters.yaml") == {"lr": 0.1, "epochs": 3}
    assert run.params is run.hparams
    assert run.status == "Running"


def test_finish_is_idempotent_and_refuses_later_logs(run: Run) -> None:
    run.finish()
    ended = run.end_timestamp
    run.finish()
    assert (run.status, run.end_timestamp) == ("Complete", ended)
    assert load_run(run.local).status == "Complete"
    with pytest.raises(InvalidInputError, match="Complete"):
        run.log("train", {"a": 1}, 1)


def test_context_manager_marks_failed_and_propagates() -> None:
    with pytest.raises(ZeroDivisionError), create_run() as run:
        _ = 1 / 0
    loaded = load_run(run.local)
    assert loaded.status == "Failed"
    assert "ZeroDivisionError" in str(_read(run, "metadata.yaml"))


def test_exit_without_finish_completes_and_fork_does_not() -> None:
    path = _child(
        "import os\nfrom t9k.em.run import create_run\nr = create_run()\nprint(r.local, flush=True)\n"
        "r.log('train', {'a': 1}, 1)\npid = os.fork()\n"
        "if not pid:\n    r.log('train', {'a': 2}, 2); r.params.x = 1; r.finish(); os._exit(0)\n"
        "os.waitpid(pid, 0)\nassert open(r.local + '/metadata.yaml').read().count('status: Running') == 1\n"
    )
    loaded = load_run(path)
    assert loaded.status == "Complete"
    assert [point["metrics"] for point in loaded.metrics["train"]] == [{"a": 1}]
    assert dict(loaded.params) == {}


def test_killed_run_is_crashed_repaired_and_continued() -> None:
    path = _child(
        "import os, signal\nfrom t9k.em.run import create_run\nr = create_run(hparams={'a': 1})\n"
        "print(r.local, flush=True)\nr.log('train', {'x': float('nan')}, 1)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with open(f"{path}/metrics/train.yaml", "ab") as file:
        file.write(b'- {"metr')
    with pytest.warns(RuntimeWarning, match="8 bytes cut off"):
        run = load_run(path)
    assert run.status == "Crashed"
    run.params.update({"a": 2, "b": 3}, override=False)
    run.log("train", {"x": 2}, 2)
    run.finish()
    loaded = load_run(path)
    assert loaded.status == "Complete"
    assert dict(loaded.params) == {"a": 1, "b": 3}
    first, second = loaded.metrics["train"]
    assert math.isnan(first["metrics"]["x"])
    assert second["metrics"] == {"x": 2}


def test_load_beside_a_live_owner_appends_but_does_not_finish(run: Run) -> None:
    guest = load_run(run.local)
    guest.log("val", {"a": 1}, 1)
    guest.finish()
    with pytest.raises(ConflictError):
        guest.mark_input(SimpleNamespace(name="x"))
    assert load_run(run.local).status == "Running"
    assert len(run.metrics["val"]) == 1


def test_marks_are_kept_once(run: Run) -> None:
    data = SimpleNamespace(name="data", alternative_name="data_1", local="/d")
    run.mark_input(data)
    run.mark_input(data)
    run.mark_output(SimpleNamespace(name="model"))
    loaded = load_run(run.local)
    assert [mark["name"] for mark in loaded.associations["inputs"]] == ["data_1"]
    assert [mark["name"] for mark in loaded.associations["outputs"]] == ["model"]
    with pytest.raises(InvalidInputError):
        run.mark_input(3)


def test_to_dict_and_parse_from_dict_round_trip(run: Run) -> None:
    run.log("train", {"a": 1}, 1)
    data = run.to_dict()
    other = Run({"name": "other"})
    other.parse_from_dict(data)
    assert other.to_dict() == data


def test_config_file_wins_over_arguments(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("name: from_file\nhparams: {lr: 1}\n")
    run = create_run(config_path=str(config), name="argument", description="kept", labels=["a"])
    assert (run.name, run.description, run.labels, dict(run.params)) == ("from_file", "kept", ["a"], {"lr": 1})


@pytest.mark.parametrize("name", ["", "a/b", "a\n", "\u202ea", "x" * 10_000, "..", "\ud800", "\u200d", "a\u200fb"])
def test_names_that_cannot_name_a_directory_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="name"):
        create_run(name=name)


def test_remote_halves_fail_clearly(run: Run) -> None:
    with pytest.raises(AuthError, match="not logged in"):
        run.upload()
    with pytest.raises(AuthError, match="not logged in"):
        create_run(auto_upload=True)
    with pytest.raises(NotFoundError):
        load_run("/no/such/run")


def test_mistakes_that_are_made_easily_say_the_way_out(run: Run) -> None:
    artifact = em.create_artifact("weights")
    with pytest.raises(NotFoundError, match=r"there is no file mnist .*name='mnist'"):
        create_run("mnist")
    with pytest.raises(NotFoundError, match=r"there is no file run_config\.yaml$"):
        create_run("run_config.yaml")
    with pytest.raises(InvalidInputError, match=r"a path is text or a pathlib.Path, not a dict .*hparams="):
        create_run({"lr": 0.1})  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="step must be an integer, not a str"):
        run.log("train", {"loss": 0.5}, "1")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="add the files to an artifact"):
        run.mark_output("model.bin")
    with pytest.raises(InvalidInputError, match="add the files to an artifact"):
        run.mark_output(Path("model.bin"))
    with pytest.raises(NotFoundError, match=r"em\.load_artifact loads it"):
        load_run(artifact.local)
    with pytest.raises(NotFoundError, match=r"em\.load_run loads it"):
        em.load_artifact(run.local)


def test_missing_parent_is_an_error_at_create(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(tmp_path / "file" / "runs"))
    with pytest.raises(StoreError, match="cannot create"):
        create_run()


def test_full_disk_warns_once_and_counts(run: Run) -> None:
    run.log("train", {"a": 1}, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    room_bytes = os.path.getsize(f"{run.local}/metrics/train.yaml") + 10
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))  # as a full disk: a line ends in its midst
        with pytest.warns(RuntimeWarning, match="training goes on") as caught:  # noqa: PT031 - one warning for both
            run.log("train", {"a": 2}, 2)
            run.log("train", {"a": 3}, 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    # Runs of other tests that nobody finished may find the disk full too, when their platform comes late.
    assert sum(run.local in str(warning.message) for warning in caught) == 1
    run.log("train", {"a": 4}, 4)
    run.finish()
    assert [point["at"]["step"] for point in run.metrics["train"]] == [1, 4]
    assert "'lost_log_lines': 2" in str(_read(run, "metadata.yaml"))


def test_import_needs_no_heavy_package() -> None:
    # The set decides the cost, and a set does not flicker as a time would.
    heavy = {"argparse", "click", "ctypes", "dataclasses", "email", "importlib.metadata", "inspect", "json", "logging"}
    heavy |= {"multiprocessing", "numpy", "pathlib", "requests", "socket", "subprocess", "tempfile", "tqdm"}
    heavy |= {"traceback", "urllib.parse", "yaml", "zipfile"}
    # -I -S: a site's .pth files would import for themselves.
    code = f"import sys; sys.path[:0] = {sys.path!r}; before = set(sys.modules); from t9k import em; "
    code += f"print(sorted({heavy!r} & (set(sys.modules) - before)))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr

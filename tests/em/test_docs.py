"""Every block of the README and the docs, and every example, runs."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
from t9k import em
from t9k.em.cli.group import SECTIONS
from t9k.em.integrations.rank import RANK_VARIABLES
from t9k.em.run import Run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted(path for path in (ROOT / "docs" / "examples").glob("*.py") if path.name != "demo.py")
EM = [sys.executable, "-c", "from t9k.em.cli import main; main()"]


def _blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(python|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def _missing(code: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return {name for name in names if importlib.util.find_spec(name) is None}


def _absent_package(line: str) -> str | None:
    """The package that a command line needs and that is not here: make test has all."""
    needs = {"parquet": "pyarrow", "tensorboard": "tensorboard", ".png": "matplotlib", "em log": "ruamel"}
    for text, package in needs.items():
        if text in line and importlib.util.find_spec(package) is None:
            return package
    return None


def test_page_of_the_command_line_shows_every_verb() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    verbs = {verb for verbs in SECTIONS.values() for verb in verbs}
    assert {verb for verb in verbs if f"\nem {verb}" in text or f"$ em {verb} " in text} == verbs


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "model.bin").write_bytes(b"weights")
    monkeypatch.chdir(tmp_path)
    for name in [*RANK_VARIABLES, *(name for name in os.environ if name.startswith("EM_"))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("T9K_CONFIG", str(tmp_path / "t9k-config.yaml"))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_page_run(page: Path, workdir: Path) -> None:
    space: dict[str, Any] = {"__name__": "docs"}
    missing: set[str] = set()
    for language, text in _blocks(page):
        if language == "sh":
            for line in text.splitlines():
                if line.startswith("em ") and not _absent_package(line):
                    subprocess.run([*EM, *shlex.split(line, comments=True)[1:]], check=True, timeout=60)
        elif absent := _missing(text):
            missing |= absent  # make test-frameworks has them
        else:
            with warnings.catch_warnings():
                if "t9k.em.integrations" in text or "keras" in text:
                    warnings.simplefilter("ignore")  # the frameworks' own
                exec(compile(text, str(page), "exec"), space)
    for value in space.values():
        if isinstance(value, Run):
            value.finish()
    assert missing <= {"keras", "torch", "xgboost", "lightgbm", "sklearn", "optuna"}


@pytest.mark.parametrize("name", sorted(em.__all__))
def test_examples_of_help_run(name: str, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_CAPTURE", "0")
    for folder, file in (("a", "1.png"), ("logs", "events"), (".", "1.png")):
        Path(folder).mkdir(exist_ok=True)
        Path(folder, file).write_bytes(b"bytes")
    Path("run_config.yaml").write_text("name: cnn_keras\nlabels: [Keras]\n")
    for test in doctest.DocTestFinder().find(getattr(em, name), name):
        run = em.create_run()
        test.globs |= {"em": em, "Params": em.Params, "run": run, "artifact": em.create_artifact(name="help")}
        assert doctest.DocTestRunner().run(test).failed == 0
        run.finish()
    assert name in {"login", "logout", "upload"} or ">>>" in (getattr(em, name).__doc__ or "")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_leaves_one_complete_run(example: Path, workdir: Path) -> None:
    if absent := _missing(example.read_text(encoding="utf-8")):
        pytest.skip(f"needs {', '.join(sorted(absent))}")
    done = subprocess.run([sys.executable, str(example)], check=False, capture_output=True, text=True, timeout=300)
    if "mutable default <class 'torch.distributed._shard" in done.stderr:
        pytest.skip("this PyTorch is too old for this Python")
    assert done.returncode == 0, done.stderr
    (folder,) = (workdir / ".em" / "runs").iterdir()
    assert "status: Complete" in (folder / "metadata.yaml").read_text()

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from t9k import CONFIG, em
from t9k.em.cli.group import SECTIONS
from t9k.em.integrations.rank import RANK_VARIABLES
from t9k.em.run import Run

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
WITH_SERVER = {"demo.py", "two_machines.py", "two_machines_data_parallel.py"}  # tests/transfer/test_examples.py
EXAMPLES = sorted(path for path in (ROOT / "docs" / "examples").glob("*.py") if path.name not in WITH_SERVER)
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
    missing = {name for name in names if importlib.util.find_spec(name) is None}
    if "lightning" in names - missing:
        try:
            importlib.import_module("torch.distributed._shard.sharded_tensor")
        except ValueError:  # Debian's PyTorch 1.13 has dataclasses that Python 3.11 refuses
            missing.add("lightning")
    return missing


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
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow" if importlib.util.find_spec("tensorflow") else "jax")
    monkeypatch.setenv("T9K_CONFIG", str(tmp_path / "t9k-config.yaml"))
    return tmp_path


@pytest.fixture
def configured(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server that the configuration names. The environments of the frameworks have none: `make test` has."""
    fsspec = pytest.importorskip("fsspec")
    pytest.importorskip("uvicorn")
    from harness import run_server

    fsspec.register_implementation("em", "t9k.em.fs.EMFileSystem", clobber=True)
    with run_server(workdir / "aistore") as server:
        monkeypatch.setitem(CONFIG, "aistore_host", server.url)
        monkeypatch.setitem(CONFIG, "api_key", server.api_key)
        yield
        em.logout()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_page_run(page: Path, workdir: Path, request: pytest.FixtureRequest) -> None:
    if page.name in ("auto_upload.md", "transfer.md"):
        request.getfixturevalue("configured")
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
    assert missing <= {
        "pandas",
        "keras",
        "torch",
        "xgboost",
        "lightgbm",
        "sklearn",
        "optuna",
        "lightning",
        "transformers",
    }


def test_every_variable_that_the_code_reads_is_documented() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "python" / "t9k" / "em").rglob("*.py"))
    read = set(re.findall(r'"(EM_[A-Z_]+)"', source))
    documented = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "environment.md").read_text(), re.MULTILINE))
    assert {"EM_CAPTURE", "EM_SYSTEM_METRICS", "EM_RUN_PARENT_DIR"} <= read <= documented


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


FIT = {"train": {"loss", "mae"}, "val": {"loss", "mae"}, "test": {"loss", "mae"}}
LEFT_BY: dict[str, tuple[set[str], dict[str, set[str]]]] = {
    "argparse_hparams.py": ({"lr", "epochs"}, {"train": {"loss"}, "test": {"loss"}}),
    "data_parallel.py": ({"world_size"}, {"train": {"loss"}}),
    "keras_distributed.py": ({"batch_size", "dist", "optimizer", "loss", "metrics"}, FIT),
    "keras_fit.py": ({"batch_size", "epochs", "optimizer", "loss", "metrics"}, FIT),
    "lightgbm_train.py": ({"objective", "num_leaves"}, {"val": {"l2"}}),
    "optuna_study.py": ({"best_params"}, {"trial": {"value", "best_value"}, "trial_params": {"x"}}),
    "run_from_config.py": ({"conv_kernel_size"}, {"train": {"loss", "accuracy"}, "test": {"accuracy"}}),
    "sklearn_search.py": ({"estimator", "best_params"}, {"cv": {"mean_test_score"}, "test": {"score"}}),
    "tensorboard_artifact.py": (set(), {"train": {"loss"}}),
    "torch_ddp.py": ({"lr", "steps"}, {"train": {"loss"}}),
    "torch_rank_zero.py": ({"lr", "steps", "dist"}, {"train": {"loss"}}),
    "torch_single.py": ({"batch_size", "epochs", "learning_rate"}, {"train": {"loss"}, "val": {"loss", "accuracy"}}),
    "transformers_train.py": ({"max_steps", "model"}, {"train": {"loss"}}),
    "xgboost_train.py": ({"max_depth", "eta"}, {"train": {"rmse"}, "val": {"rmse"}}),
    "lightning_fit.py": (set(), {"train": {"loss"}}),
}
"""Some of the hyperparameters, and some of the metrics of each type, that a script leaves."""


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_leaves_the_files_that_the_manual_shows(example: Path, workdir: Path) -> None:
    if absent := _missing(example.read_text(encoding="utf-8")):
        pytest.skip(f"needs {', '.join(sorted(absent))}")
    done = subprocess.run([sys.executable, str(example)], check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = (workdir / ".em" / "runs").iterdir()
    assert re.fullmatch(r"\w+_\d{6}_\d{6}_[a-z0-9]{6}", folder.name)
    files = {path.name: yaml.safe_load(path.read_text()) for path in folder.glob("*.yaml")}
    index = files["index.yaml"]
    assert {key: value for key, value in index.items() if key != "metrics"} == {
        "hyperparameters": "hyperparameters.yaml",
        "platform": "platform.yaml",
        "git": "git.yaml",
        "log": "stdout.log",
    }
    assert (files["metadata.yaml"]["status"], files["metadata.yaml"]["alternative_name"]) == ("Complete", folder.name)
    assert {"os", "python", "packages"} <= set(files["platform.yaml"])
    hparams, metrics = LEFT_BY[example.name]
    assert hparams <= set(files["hyperparameters.yaml"])
    assert index["metrics"] == {kind: f"metrics/{kind}.yaml" for kind in index["metrics"]}
    assert set(metrics) <= set(index["metrics"])
    for kind, names in metrics.items():
        points = yaml.safe_load((folder / index["metrics"][kind]).read_text())
        assert names <= set().union(*(point["metrics"] for point in points))
        assert all({"step", "timestamp"} <= set(point["at"]) for point in points)
    for mark in files["metadata.yaml"]["associations"]["outputs"]:
        assert em.load_artifact(mark["local"]).objects

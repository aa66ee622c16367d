"""A run in a temporary directory, and no launcher around it."""

from pathlib import Path

import pytest
from t9k.em.integrations.rank import RANK_VARIABLES
from t9k.em.run import Run, create_run


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*RANK_VARIABLES, "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "TF_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run() -> Run:
    return create_run(name="test")

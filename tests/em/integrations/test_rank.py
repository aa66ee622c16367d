"""Which rank writes, under each launcher."""

import json
from pathlib import Path

import pytest
from t9k.em.integrations.rank import SilentRun, create_run, global_rank, run_of_rank
from t9k.em.run import Run

CLUSTER = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"RANK": "3", "LOCAL_RANK": "0", "SLURM_PROCID": "0"}, 3),
        ({"RANK": "0", "SLURM_PROCID": "1"}, 0),
        ({"OMPI_COMM_WORLD_RANK": "2"}, 2),
        ({"PMI_RANK": "1"}, 1),
        ({"SLURM_PROCID": "7"}, 7),
        ({"SLURM_PROCID": "7", "LOCAL_RANK": "0"}, 7),
        ({"LOCAL_RANK": "1"}, 1),
        ({"LOCAL_RANK": "0", "NODE_RANK": "2", "LOCAL_WORLD_SIZE": "4"}, 8),
        ({"RANK": "none"}, 0),
        ({"EM_RANK": "0", "RANK": "5"}, 0),
        ({"TF_CONFIG": json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 1}})}, 1),
        ({"TF_CONFIG": json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 0}})}, 0),
        ({"TF_CONFIG": json.dumps({"cluster": {"chief": ["c:1"]}, "task": {"type": "worker", "index": 0}})}, 1),
        ({"TF_CONFIG": json.dumps({"cluster": CLUSTER, "task": {"type": "chief", "index": 0}})}, 0),
        ({"TF_CONFIG": "not json"}, 0),
        ({"TF_CONFIG": "[]"}, 0),
    ],
)
def test_global_rank_of_each_launcher_is_read(environment: dict[str, str], expected: int) -> None:
    assert global_rank(environment) == expected


def test_create_run_on_another_rank_writes_nothing(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    run = create_run(name="ddp", hparams={"lr": 0.1})
    run.log("train", {"loss": object()}, step=1)
    run.hparams.update({"epochs": 2})
    run.mark_output(object())
    run.upload()
    run.finish()
    assert isinstance(run, SilentRun)
    assert run.hparams.to_dict() == {"lr": 0.1, "epochs": 2}
    assert run.metrics == {}
    assert list(workdir.iterdir()) == []


def test_create_run_on_rank_zero_is_an_ordinary_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    run = create_run(name="ddp")
    assert type(run) is Run
    assert run_of_rank(run) is run

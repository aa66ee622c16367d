"""Which process of a distributed training writes the record: the one of global rank 0.

Launchers say the rank in the environment; no framework and no MPI is asked.
Where several launchers are nested (torchrun below srun), the inner one is
right, so its variable comes first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from t9k.em.run import Run
from t9k.em.run import create_run as _create_run

RANK_VARIABLES = (
    "EM_RANK",  # ours: decides where a launcher is unknown
    "RANK",  # torchrun, DeepSpeed, accelerate
    "HOROVOD_RANK",
    "OMPI_COMM_WORLD_RANK",  # Open MPI
    "MV2_COMM_WORLD_RANK",  # MVAPICH2
    "PMIX_RANK",
    "PMI_RANK",  # MPICH, Intel MPI
    "JSM_NAMESPACE_RANK",  # jsrun
    "JAX_PROCESS_ID",
)
"""Variables that hold the global rank, the innermost launcher first."""


def global_rank(environment: Mapping[str, str] | None = None) -> int:
    """Returns the global rank of this process; 0 where no launcher says otherwise.

    Args:
        environment: What to read instead of ``os.environ``.
    """
    env = os.environ if environment is None else environment
    for name in RANK_VARIABLES:
        if (rank := _number(env, name)) is not None:
            return rank
    # Lightning starts its own processes with these two and no RANK.
    local = _number(env, "LOCAL_RANK")
    node = _number(env, "NODE_RANK")
    if local is not None and (node is not None or "SLURM_PROCID" not in env):
        return (node or 0) * (_number(env, "LOCAL_WORLD_SIZE") or 1) + local
    if (rank := _tensorflow_rank(env.get("TF_CONFIG", ""))) is not None:
        return rank
    return _number(env, "SLURM_PROCID") or 0


def is_rank_zero() -> bool:
    """Tells whether this process writes the record."""
    return global_rank() == 0


class SilentRun(Run):
    """A run that keeps nothing: what the ranks other than 0 log to.

    Hyperparameters can be set and read back, in memory; ``local`` is empty.
    """

    def __init__(self, name: str = "default", hparams: dict[str, Any] | None = None) -> None:
        super().__init__({"name": name}, hparams=hparams)

    def log(self, type: str, metrics: Mapping[str, Any], step: int, epoch: int | None = None) -> None:
        """Does nothing; not even the values are looked at."""

    def mark_input(self, resource: Any) -> None:
        """Does nothing."""

    def mark_output(self, resource: Any) -> None:
        """Does nothing."""

    def upload(self, folder: str = "default", make_folder: bool = False, conflict_strategy: str = "new") -> None:
        """Does nothing."""


def create_run(*args: Any, **kwargs: Any) -> Run:
    """Creates a run on rank 0 and returns a `SilentRun` on the others.

    Takes the arguments of `t9k.em.create_run`. The hyperparameters of a
    config file are not read on the other ranks.
    """
    if is_rank_zero():
        return _create_run(*args, **kwargs)
    names = ("config_path", "name", "hparams")
    given = dict(zip(names, args, strict=False)) | kwargs
    return SilentRun(given.get("name", "default"), given.get("hparams"))


def run_of_rank(run: Run) -> Run:
    """Returns the run on rank 0 and a `SilentRun` on the others."""
    return run if is_rank_zero() else SilentRun(run.name)


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, "").strip()
    return int(text) if text.isascii() and text.isdigit() else None


def _tensorflow_rank(text: str) -> int | None:
    # https://www.tensorflow.org/guide/distributed_training: worker 0 is the
    # chief of a cluster that names none.
    if not text:
        return None
    try:
        config = json.loads(text)
        task = config["task"]
        kind, index = task["type"], int(task["index"])
        has_chief = "chief" in config.get("cluster", {}) or "master" in config.get("cluster", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if kind in ("chief", "master"):
        return index
    return index if kind == "worker" and not has_chief else index + 1

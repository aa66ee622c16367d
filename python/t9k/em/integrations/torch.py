"""Checkpoints of plain PyTorch as artifacts.

Example:
    >>> from t9k.em.integrations.torch import checkpoint
    >>> checkpoint(run, model, optimizer, step=1000)  # doctest: +SKIP
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

from t9k.em.artifact import Artifact, create_artifact
from t9k.em.integrations.rank import is_rank_zero
from t9k.em.run import Run

__all__ = ["checkpoint"]

FILE_NAME = "checkpoint.pt"


def checkpoint(
    run: Run, model: Any, optimizer: Any = None, step: int = 0, *, name: str | None = None, **extra: Any
) -> Artifact | None:
    """Saves model and optimizer as an artifact that is an output of the run.

    The artifact has one file, ``checkpoint.pt``: a dict with ``model``,
    ``optimizer``, ``step`` and ``extra``'s keys, for ``torch.load``. Tensors
    that did not change since the last checkpoint take no space again. Call
    it on every rank: of sharded models the state is gathered from all.

    Args:
        run: The run; on ranks other than 0 nothing is written.
        model: A module; of one wrapped with DP or DDP, the module inside is saved.
        optimizer: An optimizer, or anything else with ``state_dict``.
        step: Training steps made so far.
        name: Name of the artifact: ``<run>-checkpoint`` by default.
        extra: More to save, such as the state of a scheduler.

    Returns:
        The artifact; None on ranks other than 0.

    Raises:
        StoreError: The disk is full. A callback would warn and go on; what
            the script asks for itself is not left out quietly.
    """
    state: dict[str, Any] = {"model": _unwrapped(model).state_dict(), "step": step, **extra}
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
    if not is_rank_zero():
        return None
    import torch  # type: ignore[import-not-found, unused-ignore]

    artifact = create_artifact(name or f"{run.name}-checkpoint", labels=["checkpoint"], description=f"step {step}")
    # On the run's file system, where there is room for artifacts; /tmp is memory on many clusters.
    with tempfile.TemporaryDirectory(dir=run.local or None, prefix=".checkpoint-") as folder:
        path = os.path.join(folder, FILE_NAME)
        torch.save(state, path)
        artifact.add_file(path)
    run.mark_output(artifact)
    return artifact


def _unwrapped(model: Any) -> Any:
    names = {base.__name__ for base in type(model).__mro__}
    return model.module if names & {"DataParallel", "DistributedDataParallel"} else model

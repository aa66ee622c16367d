"""Logger of PyTorch Lightning, with checkpoints as artifacts.

Example:
    >>> from t9k.em.integrations.lightning import EMLogger
    >>> trainer = Trainer(logger=EMLogger(run))  # doctest: +SKIP
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from typing import Any, Literal

from t9k.em.artifact import create_artifact
from t9k.em.integrations.framework_base import class_with_base
from t9k.em.integrations.guard import guarded
from t9k.em.integrations.plain import numbers, plain_params
from t9k.em.integrations.rank import is_rank_zero, run_of_rank
from t9k.em.integrations.split import by_type
from t9k.em.run import Run

__all__ = ["EMLogger"]

_BASES = (
    "lightning.pytorch.loggers.logger.Logger",
    "pytorch_lightning.loggers.logger.Logger",
)


class EMLogger:
    """Logs what a LightningModule logs, its hyperparameters and the trainer's checkpoints.

    A name's prefix is its type: ``val_loss`` and ``val/loss`` are ``loss`` of
    ``val``; a name without one is of ``train``. The run is not finished when
    ``fit`` ends, because ``test`` may follow.

    Args:
        run: The run to log to; on ranks other than 0 nothing is written.
        checkpoints: ``kept`` makes one artifact of the checkpoints that are
            there when ``fit`` ends, ``all`` one of each as it is saved,
            ``none`` makes none.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> EMLogger:
        instance: EMLogger = object.__new__(class_with_base(cls, _BASES))
        return instance

    def __init__(self, run: Run, checkpoints: Literal["kept", "all", "none"] = "kept") -> None:
        super().__init__()
        if checkpoints not in ("kept", "all", "none"):
            raise ValueError(f"checkpoints must be 'kept', 'all' or 'none', not {checkpoints!r}")
        self._run = run_of_rank(run)
        self._checkpoints = checkpoints
        self._checkpoint_callbacks: list[Any] = []
        self._added: set[tuple[str, int]] = set()

    @property
    def experiment(self) -> Run:
        """The run; on ranks other than 0 one that does nothing."""
        return self._run

    @property
    def name(self) -> str:
        return self._run.name

    @property
    def version(self) -> str:
        return self._run.alternative_name

    @property
    def save_dir(self) -> str | None:
        """Directory below which Lightning puts checkpoints that have no ``dirpath``: that of its own default."""
        return None

    @property
    def root_dir(self) -> str | None:
        return None

    @property
    def log_dir(self) -> str | None:
        return None

    @property
    def group_separator(self) -> str:
        return "/"

    @guarded
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        known = numbers(metrics)
        epoch = known.pop("epoch", None)
        for kind, values in by_type(known).items():
            self._run.log(kind, values, step=step or 0, epoch=None if epoch is None else int(epoch))

    @guarded
    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self._run.hparams.update(plain_params(vars(params) if isinstance(params, Namespace) else params))

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Does nothing: a run has no graph."""

    def save(self) -> None:
        """Does nothing: each call of ``log_metrics`` has written its line."""

    @guarded
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        if checkpoint_callback not in self._checkpoint_callbacks:
            self._checkpoint_callbacks.append(checkpoint_callback)
        if self._checkpoints == "all":
            self._add_new()

    @guarded
    def finalize(self, status: str) -> None:
        if self._checkpoints == "kept":
            self._add_new()

    def _add_new(self) -> None:
        if not is_rank_zero():
            return
        states = {path: os.stat(path).st_mtime_ns for path in self._kept() if os.path.exists(path)}
        new = [(path, mtime_ns) for path, mtime_ns in states.items() if (path, mtime_ns) not in self._added]
        if not new:
            return
        artifact = create_artifact(f"{self._run.name}-checkpoints", labels=["checkpoint"])
        for path, _ in new:
            if os.path.isdir(path):  # sharded strategies save a directory
                artifact.add_dir(path)
            else:
                artifact.add_file(path)
        self._run.mark_output(artifact)
        self._added.update(new)

    def _kept(self) -> list[str]:
        paths: dict[str, None] = {}
        for callback in self._checkpoint_callbacks:
            best = (getattr(callback, "best_k_models", None) or {}).keys()
            for path in (*best, getattr(callback, "best_model_path", ""), getattr(callback, "last_model_path", "")):
                if path:
                    paths[str(path)] = None
        return list(paths)

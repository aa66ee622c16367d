"""Callback of the Hugging Face Trainer.

Example:
    >>> from t9k.em.integrations.transformers import EMCallback
    >>> trainer = Trainer(..., callbacks=[EMCallback(run)])  # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from t9k.em.artifact import create_artifact
from t9k.em.integrations.framework_base import class_with_base
from t9k.em.integrations.guard import guarded
from t9k.em.integrations.plain import numbers, plain_params
from t9k.em.integrations.rank import run_of_rank
from t9k.em.run import Run

__all__ = ["EMCallback"]


class EMCallback:
    """Logs what a Trainer logs, its arguments and its model's configuration.

    ``eval_loss`` is ``loss`` of ``val``, because a Trainer evaluates while it
    trains; ``test_loss`` is ``loss`` of ``test``; all else is of ``train``
    under its own name. Arguments that look like a secret are left out.

    Args:
        run: The run to log to; on ranks other than 0 nothing is written.
        checkpoints: Whether each saved checkpoint becomes an artifact. The
            store keeps what ``save_total_limit`` deletes.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> EMCallback:
        instance: EMCallback = object.__new__(class_with_base(cls, ("transformers.TrainerCallback",)))
        return instance

    def __init__(self, run: Run, checkpoints: bool = False) -> None:
        super().__init__()
        self._run = run_of_rank(run)
        self._checkpoints = checkpoints

    @guarded
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        params = {key: value for key, value in args.to_dict().items() if not key.endswith("token")}
        config = getattr(kwargs.get("model"), "config", None)
        if callable(to_dict := getattr(config, "to_dict", None)):
            params["model"] = to_dict()
        self._run.hparams.update(plain_params(params))

    @guarded
    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        known = numbers(logs or {})
        known.pop("epoch", None)
        epoch = None if state.epoch is None else int(state.epoch)
        for kind, values in _by_type(known).items():
            self._run.log(kind, values, step=state.global_step, epoch=epoch)

    @guarded
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        if not self._checkpoints or not state.is_world_process_zero or not os.path.isdir(folder):
            return
        artifact = create_artifact(f"{self._run.name}-checkpoint", labels=["checkpoint"])
        artifact.add_dir(folder)
        self._run.mark_output(artifact)


def _by_type(metrics: Mapping[str, int | float]) -> dict[str, dict[str, int | float]]:
    found: dict[str, dict[str, int | float]] = {}
    for name, value in metrics.items():
        prefix, separator, rest = name.partition("_")
        kind = {"eval": "val", "test": "test"}.get(prefix) if separator and rest else None
        found.setdefault(kind or "train", {})[rest if kind else name] = value
    return found

"""Callback of Optuna's ``study.optimize``.

Example:
    >>> from t9k.em.integrations.optuna import EMCallback
    >>> study.optimize(objective, n_trials=20, callbacks=[EMCallback(run)])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from t9k.em.integrations.guard import guarded
from t9k.em.integrations.plain import numbers, plain_params
from t9k.em.integrations.rank import run_of_rank
from t9k.em.run import Run

__all__ = ["EMCallback"]


class EMCallback:
    """Logs each trial that has a value, and keeps the best parameters.

    A step is a trial's number. Type ``trial`` has its objective (``value``,
    or the study's ``metric_names``, or ``value_0``, ``value_1``…) and, of a
    study with one objective, ``best_value``; its numeric parameters are of
    type ``trial_params``. The hyperparameters get ``study``, ``directions``
    and ``best_params``.

    Args:
        run: The run to log to; on ranks other than 0 nothing is written.
    """

    def __init__(self, run: Run) -> None:
        self._run = run_of_rank(run)

    @guarded
    def __call__(self, study: Any, trial: Any) -> None:
        if trial.values is None:  # pruned without a report, or failed
            return
        names = getattr(study, "metric_names", None) or _default_names(len(trial.values))
        values = dict(zip(names, trial.values, strict=False))
        directions = [direction.name.lower() for direction in study.directions]
        params: dict[str, Any] = {"study": study.study_name, "directions": directions}
        if len(directions) == 1 and (best := _best_trial(study)) is not None:
            values["best_value"] = best.value
            params["best_params"] = best.params
        self._run.hparams.update(plain_params(params))
        for kind, metrics in (("trial", numbers(values)), ("trial_params", numbers(trial.params))):
            if metrics:
                self._run.log(kind, metrics, step=trial.number)


def _best_trial(study: Any) -> Any:
    try:
        return study.best_trial
    except ValueError:  # no trial is complete yet
        return None


def _default_names(count: int) -> list[str]:
    return ["value"] if count == 1 else [f"value_{index}" for index in range(count)]

"""Callback of XGBoost, for ``train``, ``cv`` and the scikit-learn classes.

Example:
    >>> from t9k.em.integrations.xgboost import EMCallback
    >>> xgboost.train(params, data, evals=[(data, "train")], callbacks=[EMCallback(run)])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t9k.em.integrations.framework_base import class_with_base
from t9k.em.integrations.guard import guarded
from t9k.em.integrations.plain import numbers
from t9k.em.integrations.rank import run_of_rank
from t9k.em.integrations.split import type_of_data
from t9k.em.run import Run

__all__ = ["EMCallback"]


class EMCallback:
    """Logs the evaluation of each boosting round, under the names given in ``evals``.

    A step is a round, counted from 0 as XGBoost prints it. Of ``cv``, the
    standard deviation of a metric is logged as ``<metric>_std``. Parameters
    are not known to XGBoost's callbacks: use ``run.hparams.update(params)``.

    Args:
        run: The run to log to; on ranks other than 0 nothing is written.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> EMCallback:
        instance: EMCallback = object.__new__(class_with_base(cls, ("xgboost.callback.TrainingCallback",)))
        return instance

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run_of_rank(run)

    @guarded
    def after_iteration(self, model: Any, epoch: int, evals_log: Mapping[str, Mapping[str, Any]]) -> bool:
        for data, history in evals_log.items():
            values: dict[str, Any] = {}
            for name, points in history.items():
                last = points[-1]
                if isinstance(last, tuple | list):  # cv: mean and standard deviation
                    values[name], values[f"{name}_std"] = last
                else:
                    values[name] = last
            if known := numbers(values):
                self._run.log(type_of_data(data), known, step=epoch)
        return False  # go on

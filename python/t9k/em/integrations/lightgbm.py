"""Callback of LightGBM, for ``train``, ``cv`` and the scikit-learn classes.

Example:
    >>> from t9k.em.integrations.lightgbm import EMCallback
    >>> lightgbm.train(params, data, valid_sets=[val], callbacks=[EMCallback(run)])  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

from t9k.em.integrations.guard import guarded
from t9k.em.integrations.plain import numbers, plain_params
from t9k.em.integrations.rank import run_of_rank
from t9k.em.integrations.split import type_of_data
from t9k.em.run import Run

__all__ = ["EMCallback"]


class EMCallback:
    """Logs the evaluation of each boosting round, under the names of ``valid_names``.

    A step is a round, counted from 0. Of ``cv``, the standard deviation of a
    metric is logged as ``<metric>_std``. The parameters go to the
    hyperparameters.

    Args:
        run: The run to log to; on ranks other than 0 nothing is written.
    """

    order = 20  # after LightGBM's own that change parameters, before early stopping, which raises
    before_iteration = False

    def __init__(self, run: Run) -> None:
        self._run = run_of_rank(run)

    @guarded
    def __call__(self, env: Any) -> None:
        if env.iteration == env.begin_iteration:
            self._run.hparams.update(plain_params(env.params or {}))
        by_data: dict[str, dict[str, Any]] = {}
        for data, metric, value, _, *std in env.evaluation_result_list or ():
            # Older versions of cv give ("cv_agg", "valid l2", …).
            if data == "cv_agg":
                data, _, metric = metric.partition(" ")
            values = by_data.setdefault(type_of_data(data), {})
            values[metric] = value
            if std and std[0] is not None:
                values[f"{metric}_std"] = std[0]
        for kind, values in by_data.items():
            if known := numbers(values):
                self._run.log(kind, known, step=env.iteration)

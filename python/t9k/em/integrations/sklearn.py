"""Parameters and scores of a fitted scikit-learn estimator.

Example:
    >>> from t9k.em.integrations.sklearn import log_estimator
    >>> log_estimator(run, model.fit(x, y), x_test, y_test)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t9k.em.integrations.plain import numbers, plain_params
from t9k.em.integrations.rank import run_of_rank
from t9k.em.run import Run

__all__ = ["log_estimator"]


def log_estimator(
    run: Run,
    estimator: Any,
    x: Any = None,
    y: Any = None,
    *,
    type: str = "test",
    scoring: Sequence[str] = (),
    step: int = 0,
) -> dict[str, int | float]:
    """Records an estimator's class and parameters, its scores and its training curve.

    Parameters go to the hyperparameters ``estimator`` and ``params``; a
    search's best ones to ``best_params`` and its candidates to type ``cv``,
    one step each. What an estimator keeps of each training step
    (``loss_curve_``, ``train_score_``) goes to ``train``.

    Args:
        run: The run to log to; on ranks other than 0 nothing is written.
        estimator: An estimator, pipeline or search, fitted.
        x: Samples to score it with; without them no score is made.
        y: Their targets, if it is supervised.
        type: Metrics type of the scores.
        scoring: Names of scikit-learn's scorers, besides the estimator's own ``score``.
        step: Step of the scores.

    Returns:
        The scores.
    """
    run = run_of_rank(run)
    kind = f"{estimator.__class__.__module__.partition('.')[0]}.{estimator.__class__.__name__}"
    params: dict[str, Any] = {"estimator": kind, "params": estimator.get_params()}
    if (best := getattr(estimator, "best_params_", None)) is not None:
        params["best_params"] = best
    run.hparams.update(plain_params(params))
    _log_curves(run, estimator)
    _log_candidates(run, estimator)
    scores = numbers(_scores(estimator, x, y, scoring)) if x is not None else {}
    if scores:
        run.log(type, scores, step=step)
    return scores


def _scores(estimator: Any, x: Any, y: Any, scoring: Sequence[str]) -> dict[str, Any]:
    scores: dict[str, Any] = {}
    if hasattr(estimator, "score"):
        scores["score"] = estimator.score(x, y)
    if scoring:
        from sklearn.metrics import get_scorer  # type: ignore[import-not-found, import-untyped, unused-ignore]

        scores |= {name: get_scorer(name)(estimator, x, y) for name in scoring}
    return scores


def _log_curves(run: Run, estimator: Any) -> None:
    for attribute, name in (("loss_curve_", "loss"), ("train_score_", "score")):
        curve = getattr(estimator, attribute, None)
        for step, value in enumerate(curve if curve is not None else (), start=1):
            if known := numbers({name: value}):
                run.log("train", known, step=step)


def _log_candidates(run: Run, estimator: Any) -> None:
    results = getattr(estimator, "cv_results_", None)
    if not isinstance(results, dict):
        return
    names = [name for name in results if name.startswith(("mean_", "std_"))]
    for step in range(len(results.get("params", ()))):
        if known := numbers({name: results[name][step] for name in names}):
            run.log("cv", known, step=step)

"""Integrations with the real packages; each is skipped where its package is not installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from t9k.em.errors import InvalidInputError
from t9k.em.integrations.sklearn import log_estimator
from t9k.em.run import Run

X = np.random.default_rng(0).standard_normal((60, 3))
Y = X[:, 0] + 0.1 * X[:, 1]


def _steps(run: Run, kind: str) -> list[int]:
    return [point["at"]["step"] for point in run.metrics[kind]]


def test_jax_arrays_of_one_element_are_logged_and_others_refused(run: Run) -> None:
    jax: Any = pytest.importorskip("jax")
    values = {"loss": jax.numpy.float32(0.5), "a": jax.numpy.ones((1, 1)), "n": jax.numpy.array(3)}
    run.log("train", values | {"half": jax.numpy.array(1.5, "bfloat16")}, step=jax.numpy.array(7))
    assert run.metrics["train"][0]["metrics"] == {"loss": 0.5, "a": 1.0, "n": 3, "half": 1.5}
    assert _steps(run, "train") == [7]

    @jax.jit
    def step(x: Any) -> Any:
        with pytest.raises(InvalidInputError, match="'traced'"):
            run.log("train", {"traced": x}, step=1)
        return x

    step(jax.numpy.array(1.0))
    for bad in (jax.numpy.ones(2), jax.numpy.array(True)):
        with pytest.raises(InvalidInputError, match="'bad'"):
            run.log("train", {"bad": bad}, step=1)
    run.params.update({"dtype": jax.numpy.bfloat16, "lr": jax.numpy.array(0.5)})
    assert run.params.to_dict() == {"dtype": "bfloat16", "lr": 0.5}


def test_xgboost_train_cv_and_estimator_are_recorded(run: Run) -> None:
    xgboost: Any = pytest.importorskip("xgboost")
    from t9k.em.integrations.xgboost import EMCallback

    data = xgboost.DMatrix(X, Y)
    params = {"max_depth": 2, "objective": "reg:squarederror"}
    xgboost.train(params, data, 3, evals=[(data, "train")], callbacks=[EMCallback(run)], verbose_eval=False)
    assert _steps(run, "train") == [0, 1, 2]
    xgboost.cv(params, data, 2, nfold=2, callbacks=[EMCallback(run)])
    assert set(run.metrics["test"][0]["metrics"]) == {"rmse", "rmse_std"}
    model = xgboost.XGBRegressor(n_estimators=2, callbacks=[EMCallback(run)])
    model.fit(X, Y, eval_set=[(X, Y)], verbose=False)
    assert _steps(run, "validation_0") == [0, 1]


def test_lightgbm_train_and_cv_are_recorded(run: Run) -> None:
    lightgbm: Any = pytest.importorskip("lightgbm")
    from t9k.em.integrations.lightgbm import EMCallback

    params = {"objective": "regression", "verbose": -1, "min_data_in_leaf": 2, "num_threads": 1}
    data = lightgbm.Dataset(X, Y)
    lightgbm.train(params, data, 3, valid_sets=[data], valid_names=["val"], callbacks=[EMCallback(run)])
    assert _steps(run, "val") == [0, 1, 2]
    assert run.hparams["objective"] == "regression"
    lightgbm.cv(params, lightgbm.Dataset(X, Y), 2, nfold=2, stratified=False, callbacks=[EMCallback(run)])
    assert set(run.metrics["valid"][0]["metrics"]) == {"l2", "l2_std"}


def test_sklearn_pipeline_and_search_are_recorded(run: Run) -> None:
    pytest.importorskip("sklearn")
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), Ridge())
    search = GridSearchCV(pipeline, {"ridge__alpha": [0.1, 1.0]}, cv=2).fit(X, Y)
    scores = log_estimator(run, search, X, Y, scoring=["neg_mean_absolute_error"])
    assert scores["score"] > 0.9
    assert run.metrics["test"][0]["metrics"] == scores
    assert run.hparams["estimator"] == "sklearn.GridSearchCV"
    assert run.hparams["best_params"]["ridge__alpha"] == 0.1
    assert _steps(run, "cv") == [0, 1]


def test_sklearn_training_curves_are_recorded(run: Run) -> None:
    pytest.importorskip("sklearn")
    from sklearn.ensemble import GradientBoostingRegressor

    log_estimator(run, GradientBoostingRegressor(n_estimators=3).fit(X, Y))
    assert _steps(run, "train") == [1, 2, 3]


def test_optuna_study_is_recorded(run: Run) -> None:
    optuna: Any = pytest.importorskip("optuna")
    from t9k.em.integrations.optuna import EMCallback

    def objective(trial: Any) -> float:
        if trial.number == 1:
            raise optuna.TrialPruned
        return float(trial.suggest_float("x", -1, 1) ** 2)

    study = optuna.create_study(study_name="square")
    study.optimize(objective, n_trials=3, callbacks=[EMCallback(run)])
    assert _steps(run, "trial") == [0, 2]
    assert run.metrics["trial"][1]["metrics"]["best_value"] == study.best_value
    assert run.hparams["best_params"] == study.best_params


def test_torch_checkpoint_is_loaded_again(run: Run) -> None:
    torch: Any = pytest.importorskip("torch")
    from t9k.em.integrations.torch import checkpoint

    model = torch.nn.Linear(3, 1)
    artifact = checkpoint(run, model, torch.optim.Adam(model.parameters()), step=5)
    assert artifact is not None
    state = torch.load(f"{artifact.local}/checkpoint.pt")
    assert state["step"] == 5
    assert torch.equal(state["model"]["weight"], model.weight)

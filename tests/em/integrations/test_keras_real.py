"""Keras callbacks with the real Keras."""

import importlib.util
import os
from typing import Any

import numpy as np
import pytest
from t9k.em.keras import EMEvalCallback, EMFitCallback
from t9k.em.run import Run

os.environ.setdefault("KERAS_BACKEND", "tensorflow" if importlib.util.find_spec("tensorflow") else "jax")
keras: Any = pytest.importorskip("keras")


@pytest.fixture
def model() -> Any:
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 10, 0.9)
    model.compile(
        optimizer=keras.optimizers.Adam(schedule), loss="mse", metrics=["mae", keras.metrics.RootMeanSquaredError()]
    )
    return model


def test_callbacks_have_every_public_hook_of_keras() -> None:
    wanted = {name for name in dir(keras.callbacks.Callback) if not name.startswith("_")}
    assert wanted <= {*dir(EMFitCallback), "model", "params", "validation_data"}


def test_fit_and_evaluate_are_recorded(run: Run, model: Any) -> None:
    x, y = np.ones((8, 3)), np.ones((8, 1))
    model.fit(x, y, batch_size=4, epochs=2, validation_data=(x, y), verbose=0, callbacks=[EMFitCallback(run)])
    model.evaluate(x, y, verbose=0, callbacks=[EMEvalCallback(run)])
    names = {"loss", "mae", "root_mean_squared_error"}
    for kind, steps in {"train": [1, 2, 3, 4], "val": [2, 4], "test": [4]}.items():
        assert [point["at"]["step"] for point in run.metrics[kind]] == steps
        assert set(run.metrics[kind][0]["metrics"]) >= names
    assert run.hparams["optimizer"]["name"].startswith("adam")  # Keras numbers the names of one process
    assert run.hparams["optimizer"]["learning_rate"]["class_name"] == "ExponentialDecay"
    assert run.hparams["loss"] == "mse"
    assert run.hparams["metrics"] == ["mae", "root_mean_squared_error"]


def test_fit_with_a_loss_function_names_it(run: Run, model: Any) -> None:
    def own_loss(y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y_true - y_pred))

    model.compile(optimizer="sgd", loss=own_loss)
    model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0, callbacks=[EMFitCallback(run)])
    assert run.hparams["loss"] == "own_loss"
    assert run.hparams["optimizer"]["name"].lower() == "sgd"

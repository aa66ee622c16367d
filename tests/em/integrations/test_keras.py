"""Keras callbacks with a stand-in that calls the hooks in Keras's order."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from t9k.em.keras import EMEvalCallback, EMFitCallback
from t9k.em.run import Run


class Adam:
    name = "adam"

    def __init__(self) -> None:
        self.iterations = SimpleNamespace(value=0)

    def get_config(self) -> dict[str, Any]:
        return {"name": "adam", "learning_rate": 0.001, "weight_decay": None, "hook": object()}


class Model:
    """The attributes of a compiled Keras model that the callbacks read."""

    def __init__(self) -> None:
        self.optimizer = Adam()
        self.loss = "mse"

    def get_compile_config(self) -> dict[str, Any]:
        return {"metrics": ["mae", {"class_name": "RootMeanSquaredError", "config": {"name": "rmse"}}]}

    def fit(self, callback: Any, epochs: int, steps: int) -> None:
        callback.set_params({"epochs": epochs})
        callback.set_model(self)
        callback.on_train_begin()
        for epoch in range(epochs):
            callback.on_epoch_begin(epoch)
            for batch in range(steps):
                callback.on_train_batch_begin(batch)
                self.optimizer.iterations.value += 1
                callback.on_train_batch_end(batch, {"loss": 1.0, "mae": 0.5})
            self.evaluate(callback)
            callback.on_epoch_end(epoch, {"loss": 1.0, "mae": 0.5, "val_loss": 2.0, "val_mae": 0.7})
        callback.on_train_end()

    def evaluate(self, callback: Any) -> None:
        callback.set_model(self)
        callback.on_test_begin()
        callback.on_test_batch_end(0, {"loss": 3.0})
        callback.on_test_end({"loss": 3.0})


def _at(run: Run, kind: str) -> list[tuple[int, int]]:
    return [(point["at"]["step"], point["at"]["epoch"]) for point in run.metrics[kind]]


def test_fit_callback_logs_each_step_and_validation(run: Run) -> None:
    Model().fit(EMFitCallback(run), epochs=2, steps=3)
    assert _at(run, "train") == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert _at(run, "val") == [(3, 1), (6, 2)]
    assert run.metrics["val"][0]["metrics"] == {"loss": 2.0, "mae": 0.7}
    assert "test" not in run.metrics


def test_fit_callback_every_two_steps_also_logs_the_end_of_an_epoch(run: Run) -> None:
    Model().fit(EMFitCallback(run, every_steps=2), epochs=2, steps=3)
    assert _at(run, "train") == [(2, 1), (3, 1), (4, 2), (6, 2)]


def test_fit_callback_writes_how_the_model_was_compiled(run: Run) -> None:
    Model().fit(EMFitCallback(run), epochs=1, steps=1)
    assert run.hparams.to_dict() == {
        "optimizer": {"name": "adam", "learning_rate": 0.001, "weight_decay": None, "hook": "object"},
        "loss": "mse",
        "metrics": ["mae", "rmse"],
    }


def test_fit_callback_of_a_second_fit_continues_the_steps(run: Run) -> None:
    model = Model()
    model.fit(EMFitCallback(run), epochs=1, steps=2)
    model.fit(EMFitCallback(run), epochs=1, steps=2)
    assert [step for step, _ in _at(run, "train")] == [1, 2, 3, 4]


def test_eval_callback_logs_once_at_the_trained_step(run: Run) -> None:
    model = Model()
    model.optimizer.iterations.value = 5
    model.evaluate(EMEvalCallback(run))
    assert [(point["metrics"], point["at"]["step"]) for point in run.metrics["test"]] == [({"loss": 3.0}, 5)]


def test_eval_callback_within_fit_logs_nothing(run: Run) -> None:
    Model().fit(EMEvalCallback(run), epochs=1, steps=1)
    assert run.metrics == {}


def test_callbacks_on_another_rank_write_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    Model().fit(EMFitCallback(run), epochs=1, steps=1)
    Model().evaluate(EMEvalCallback(run))
    assert run.metrics == {}
    assert run.hparams.to_dict() == {}


def test_import_of_the_module_imports_no_framework() -> None:
    code = "import sys, t9k.em.keras; print([m for m in ('keras', 'tensorflow', 'jax', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"

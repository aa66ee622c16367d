"""Callbacks of Keras 3 and tf.keras.

They have the hooks of ``keras.callbacks.Callback`` without being one, so one
class serves both packages, and neither is imported.

Example:
    >>> from t9k import em
    >>> from t9k.em.keras import EMEvalCallback, EMFitCallback
    >>> run = em.create_run(name="cnn_keras")  # doctest: +SKIP
    >>> model.fit(x, y, callbacks=[EMFitCallback(run)])  # doctest: +SKIP
    >>> model.evaluate(x, y, callbacks=[EMEvalCallback(run)])  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t9k.em.errors import InvalidInputError
from t9k.em.integrations.guard import guarded
from t9k.em.integrations.plain import label_of, numbers, plain_params
from t9k.em.integrations.rank import run_of_rank
from t9k.em.metrics import to_number
from t9k.em.run import Run

__all__ = ["EMEvalCallback", "EMFitCallback"]

_Logs = Mapping[str, Any] | None


class _Hooks:
    """Every hook that Keras calls, empty."""

    async_safe = False  # Keras 3: hooks run in the order of the steps
    _supports_tf_logs = False  # tf.keras 2: logs arrive as Python numbers

    def __init__(self, run: Run) -> None:
        self._run = run_of_rank(run)
        self.params: dict[str, Any] = {}
        self.model: Any = None
        self.validation_data: Any = None

    def set_params(self, params: dict[str, Any] | None) -> None:
        self.params = dict(params or {})

    def set_model(self, model: Any) -> None:
        self.model = model

    def _implements_train_batch_hooks(self) -> bool:
        return True

    def _implements_test_batch_hooks(self) -> bool:
        return False

    def _implements_predict_batch_hooks(self) -> bool:
        return False

    def on_batch_begin(self, batch: int, logs: _Logs = None) -> None: ...
    def on_batch_end(self, batch: int, logs: _Logs = None) -> None: ...
    def on_epoch_begin(self, epoch: int, logs: _Logs = None) -> None: ...
    def on_epoch_end(self, epoch: int, logs: _Logs = None) -> None: ...
    def on_train_batch_begin(self, batch: int, logs: _Logs = None) -> None: ...
    def on_train_batch_end(self, batch: int, logs: _Logs = None) -> None: ...
    def on_test_batch_begin(self, batch: int, logs: _Logs = None) -> None: ...
    def on_test_batch_end(self, batch: int, logs: _Logs = None) -> None: ...
    def on_predict_batch_begin(self, batch: int, logs: _Logs = None) -> None: ...
    def on_predict_batch_end(self, batch: int, logs: _Logs = None) -> None: ...
    def on_train_begin(self, logs: _Logs = None) -> None: ...
    def on_train_end(self, logs: _Logs = None) -> None: ...
    def on_test_begin(self, logs: _Logs = None) -> None: ...
    def on_test_end(self, logs: _Logs = None) -> None: ...
    def on_predict_begin(self, logs: _Logs = None) -> None: ...
    def on_predict_end(self, logs: _Logs = None) -> None: ...


class EMFitCallback(_Hooks):
    """Logs what ``model.fit`` reports, and how the model was compiled.

    Training metrics go to type ``train``, those that Keras calls ``val_…`` to
    ``val`` without that prefix. A step is a batch, counted from 1 over all
    epochs and calls of ``fit``; an epoch counts from 1, as Keras prints it.
    The optimizer's configuration, the loss and the metric names go to the
    hyperparameters ``optimizer``, ``loss`` and ``metrics``.

    Args:
        run: The run to log to; on ranks other than 0 nothing is written.
        every_steps: Training metrics are logged at each so many steps and at
            the end of an epoch. Within an epoch Keras reports running means.
    """

    def __init__(self, run: Run, every_steps: int = 1) -> None:
        super().__init__(run)
        if every_steps < 1:
            raise ValueError(f"every_steps must be 1 or more, not {every_steps}")
        self._every_steps = every_steps
        self._step = 0
        self._epoch = 1

    @guarded
    def on_train_begin(self, logs: _Logs = None) -> None:
        self._step = trained_steps(self.model) or self._step
        self._run.hparams.update(compiled_params(self.model))

    def on_epoch_begin(self, epoch: int, logs: _Logs = None) -> None:
        self._epoch = epoch + 1

    @guarded
    def on_train_batch_end(self, batch: int, logs: _Logs = None) -> None:
        self._step += 1
        if self._step % self._every_steps == 0:
            self._log("train", numbers(logs or {}))

    @guarded
    def on_epoch_end(self, epoch: int, logs: _Logs = None) -> None:
        known = numbers(logs or {})
        train = {name: value for name, value in known.items() if not name.startswith("val_")}
        val = {name.removeprefix("val_"): value for name, value in known.items() if name.startswith("val_")}
        if self._step % self._every_steps:
            self._log("train", train)
        self._log("val", val)

    def _log(self, kind: str, metrics: Mapping[str, int | float]) -> None:
        if metrics:
            self._run.log(kind, metrics, step=self._step, epoch=self._epoch)


class EMEvalCallback(_Hooks):
    """Logs the result of ``model.evaluate`` as type ``test``.

    The step is the number of steps the model was trained for, 0 where its
    optimizer does not say.

    Args:
        run: The run to log to; on ranks other than 0 nothing is written.
    """

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self._is_fitting = False

    def _implements_train_batch_hooks(self) -> bool:
        return False

    def on_train_begin(self, logs: _Logs = None) -> None:
        self._is_fitting = True  # the evaluations inside fit are validation

    def on_train_end(self, logs: _Logs = None) -> None:
        self._is_fitting = False

    @guarded
    def on_test_end(self, logs: _Logs = None) -> None:
        metrics = numbers(logs or {})
        if metrics and not self._is_fitting:
            self._run.log("test", metrics, step=trained_steps(self.model))


def trained_steps(model: Any) -> int:
    """Returns how many steps the model's optimizer has made; 0 if it does not say."""
    iterations = getattr(getattr(model, "optimizer", None), "iterations", None)
    value = getattr(iterations, "value", iterations)
    try:
        # Not int(): below tf.distribute the value is a variable with a copy on each device.
        return int(to_number("iterations", value() if callable(value) else value))
    except InvalidInputError:
        return 0


def compiled_params(model: Any) -> dict[str, Any]:
    """Returns ``optimizer``, ``loss`` and ``metrics`` of a compiled model, as far as it has them."""
    params: dict[str, Any] = {}
    optimizer = getattr(model, "optimizer", None)
    if callable(config := getattr(optimizer, "get_config", None)):
        params["optimizer"] = {"name": label_of(optimizer), **plain_params(config())}
    if (loss := getattr(model, "loss", None)) is not None:
        params["loss"] = _names(loss)
    metrics = _names(_compiled_metrics(model))
    if metrics:
        params["metrics"] = metrics
    return params


def _compiled_metrics(model: Any) -> Any:
    config = getattr(model, "get_compile_config", None)
    try:
        given = (config() or {}).get("metrics") if callable(config) else None
    except Exception:
        given = None
    return given or [name for name in getattr(model, "metrics_names", None) or [] if name != "loss"]


def _names(value: Any) -> Any:
    if isinstance(value, Mapping):
        config = value.get("config")
        if "class_name" in value:  # an object in Keras's serialized form
            return (config.get("name") if isinstance(config, Mapping) else config) or value["class_name"]
        return {str(key): _names(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_names(item) for item in value]
    return value if value is None or isinstance(value, str) else label_of(value)

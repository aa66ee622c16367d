"""TensorFlow itself: `make test-tensorflow` installs it; skipped elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from t9k.em.errors import InvalidInputError
from t9k.em.keras import EMEvalCallback, EMFitCallback
from t9k.em.params import Params
from t9k.em.run import Run

tf: Any = pytest.importorskip("tensorflow", reason="TensorFlow is not installed; `make test-tensorflow` has it")
pytestmark = pytest.mark.filterwarnings("default")  # the framework's own warnings are not ours


def test_one_element_tensors_are_logged_and_others_refused(run: Run) -> None:
    values = {
        "loss": tf.constant(0.25),
        "v": tf.Variable([0.5]),
        "n": tf.constant([[3]]),
        "h": tf.constant(1.5, tf.bfloat16),
    }
    run.log("train", values, step=tf.constant(7), epoch=tf.constant(1))
    (point,) = run.metrics["train"]
    assert point["metrics"] == {"loss": 0.25, "v": 0.5, "n": 3, "h": 1.5}
    assert (point["at"]["step"], point["at"]["epoch"]) == (7, 1)
    for bad in (tf.zeros(2), tf.zeros(0), tf.constant("a"), tf.constant(True)):
        with pytest.raises(InvalidInputError, match="'bad'"):
            run.log("train", {"bad": bad}, step=1)


def test_symbolic_tensor_is_refused_by_name(run: Run) -> None:
    @tf.function
    def step() -> None:
        with pytest.raises(InvalidInputError, match="'loss'"):
            run.log("train", {"loss": tf.constant(1.0) * 2}, step=1)

    step()


def test_dtype_and_scalar_are_hyperparameters(run: Run) -> None:
    run.params.update({"dtype": tf.float16, "lr": tf.constant(0.5)})
    assert run.params.to_dict() == {"dtype": "float16", "lr": 0.5}


@pytest.mark.parametrize("name", ["MirroredStrategy", "MultiWorkerMirroredStrategy"])
def test_parse_of_distribution_strategies(name: str) -> None:
    params = Params(lambda: None)
    params.parse(dist_tf_strategy=getattr(tf.distribute, name)())
    assert params["dist"]["framework"] == "tensorflow"
    assert params["dist"]["strategy"] == name
    assert params["dist"]["num_replicas_in_sync"] == 1
    with pytest.raises(InvalidInputError, match="dist_tf_strategy"):
        params.parse(dist_tf_strategy=tf.constant(1))


def test_tf_keras_fit_and_evaluate_are_recorded_under_a_strategy(run: Run) -> None:
    with tf.distribute.MirroredStrategy().scope():
        model = tf.keras.Sequential([tf.keras.layers.Input((3,)), tf.keras.layers.Dense(1)])
        model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    x, y = tf.ones((8, 3)), tf.ones((8, 1))
    model.fit(x, y, batch_size=4, epochs=2, validation_data=(x, y), verbose=0, callbacks=[EMFitCallback(run)])
    model.evaluate(x, y, verbose=0, callbacks=[EMEvalCallback(run)])
    for kind, steps in {"train": [1, 2, 3, 4], "val": [2, 4], "test": [4]}.items():
        assert [point["at"]["step"] for point in run.metrics[kind]] == steps
        assert set(run.metrics[kind][0]["metrics"]) >= {"loss", "mae"}
    assert run.hparams["optimizer"]["name"].startswith("adam")
    assert (run.hparams["loss"], run.hparams["metrics"]) == ("mse", ["mae"])

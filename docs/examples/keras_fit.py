"""Trains and evaluates a small Keras model."""

import keras
import numpy as np
from t9k.em.integrations.rank import create_run
from t9k.em.keras import EMEvalCallback, EMFitCallback


def main() -> None:
    run = create_run(name="keras_fit", hparams={"batch_size": 32, "epochs": 2})
    random = np.random.default_rng(0)
    x = random.standard_normal((200, 4))
    y = x @ np.array([1.0, -2.0, 0.5, 0.0])
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]
    )
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    model.fit(
        x,
        y,
        batch_size=run.hparams.batch_size,
        epochs=run.hparams.epochs,
        validation_split=0.2,
        callbacks=[EMFitCallback(run)],
    )
    model.evaluate(x, y, callbacks=[EMEvalCallback(run)])
    run.finish()


if __name__ == "__main__":
    main()

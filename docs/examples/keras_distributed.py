"""Data-parallel Keras with TensorFlow's mirrored strategy, which uses all devices of one machine."""

import tensorflow as tf
from t9k import em
from t9k.em.keras import EMEvalCallback, EMFitCallback


def main() -> None:
    strategy = tf.distribute.MirroredStrategy()
    run = em.create_run(name="cnn_keras_distributed", hparams={"batch_size": 32, "epochs": 2})
    run.params.parse(dist_tf_strategy=strategy)
    with strategy.scope():
        model = tf.keras.Sequential([tf.keras.layers.Input((4,)), tf.keras.layers.Dense(1)])
        model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    x = tf.random.normal((128, 4))
    y = tf.reduce_sum(x, 1, keepdims=True)
    model.fit(x, y, batch_size=32, epochs=2, validation_data=(x, y), verbose=0, callbacks=[EMFitCallback(run)])
    model.evaluate(x, y, verbose=0, callbacks=[EMEvalCallback(run)])
    run.finish()


if __name__ == "__main__":
    main()

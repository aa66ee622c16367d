"""Boosts trees with LightGBM."""

import lightgbm
import numpy as np
from t9k.em.integrations.lightgbm import EMCallback
from t9k.em.integrations.rank import create_run


def main() -> None:
    run = create_run(name="lightgbm_train")
    random = np.random.default_rng(0)
    x = random.standard_normal((200, 4))
    y = x @ np.array([1.0, -2.0, 0.5, 0.0])
    train = lightgbm.Dataset(x[:150], y[:150])
    val = lightgbm.Dataset(x[150:], y[150:], reference=train)
    params = {"objective": "regression", "num_leaves": 7, "verbose": -1}
    lightgbm.train(params, train, 10, valid_sets=[val], valid_names=["val"], callbacks=[EMCallback(run)])
    run.finish()


if __name__ == "__main__":
    main()

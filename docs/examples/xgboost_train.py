"""Boosts trees with XGBoost."""

import numpy as np
import xgboost
from t9k.em.integrations.rank import create_run
from t9k.em.integrations.xgboost import EMCallback


def main() -> None:
    run = create_run(name="xgboost_train", hparams={"max_depth": 3, "eta": 0.3})
    random = np.random.default_rng(0)
    x = random.standard_normal((200, 4))
    y = x @ np.array([1.0, -2.0, 0.5, 0.0])
    train, val = xgboost.DMatrix(x[:150], y[:150]), xgboost.DMatrix(x[150:], y[150:])
    xgboost.train(run.hparams.to_dict(), train, 10, evals=[(train, "train"), (val, "val")], callbacks=[EMCallback(run)])
    run.finish()


if __name__ == "__main__":
    main()

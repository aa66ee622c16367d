"""Searches a ridge regression's penalty with scikit-learn."""

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from t9k.em.integrations.rank import create_run
from t9k.em.integrations.sklearn import log_estimator


def main() -> None:
    run = create_run(name="sklearn_search")
    random = np.random.default_rng(0)
    x = random.standard_normal((200, 4))
    y = x @ np.array([1.0, -2.0, 0.5, 0.0])
    search = GridSearchCV(Ridge(), {"alpha": [0.1, 1.0, 10.0]}).fit(x[:150], y[:150])
    print(log_estimator(run, search, x[150:], y[150:]))
    run.finish()


if __name__ == "__main__":
    main()

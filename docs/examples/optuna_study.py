"""Minimizes a square with Optuna."""

import optuna
from t9k.em.integrations.optuna import EMCallback
from t9k.em.integrations.rank import create_run


def main() -> None:
    run = create_run(name="optuna_study")
    study = optuna.create_study(study_name="square")
    study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2, n_trials=10, callbacks=[EMCallback(run)])
    run.finish()


if __name__ == "__main__":
    main()

"""Describes the run in a file: `run_config.yaml` beside this script."""

from pathlib import Path

from t9k import em


def main() -> None:
    run = em.create_run(config_path=str(Path(__file__).with_name("run_config.yaml")))
    steps = 1024 // run.params.batch_size
    for step in range(1, run.params.epochs * steps + 1):
        run.log(type="train", metrics={"loss": 1 / step, "accuracy": 1 - 1 / step}, step=step, epoch=1)
    run.log(type="test", metrics={"accuracy": 0.97}, step=step)
    run.finish()
    print(run.local)


if __name__ == "__main__":
    main()

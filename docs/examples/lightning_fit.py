"""Trains Lightning's demo model, with checkpoints as artifacts."""

from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from t9k.em.integrations.lightning import EMLogger
from t9k.em.integrations.rank import create_run


def main() -> None:
    run = create_run(name="lightning_fit")
    Trainer(max_epochs=1, accelerator="cpu", logger=EMLogger(run)).fit(BoringModel())
    run.finish()


if __name__ == "__main__":
    main()

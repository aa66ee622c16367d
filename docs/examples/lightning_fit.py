"""Trains Lightning's demo model, with checkpoints as artifacts."""

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from t9k.em.integrations.lightning import EMLogger
from t9k.em.integrations.rank import create_run


class Model(BoringModel):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        output = super().training_step(batch, batch_idx)
        self.log("train_loss", output["loss"])
        return output


def main() -> None:
    run = create_run(name="lightning_fit")
    Trainer(max_epochs=1, accelerator="cpu", log_every_n_steps=10, logger=EMLogger(run)).fit(Model())
    run.finish()


if __name__ == "__main__":
    main()

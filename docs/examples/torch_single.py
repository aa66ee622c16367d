"""Trains a small convolutional network on made-up pictures with PyTorch in one process."""

import argparse

import torch
from t9k import em
from torch import nn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    args = parser.parse_args()

    run = em.create_run(name="mnist_torch", labels=["PyTorch"])
    run.hparams.update(args.__dict__)

    torch.manual_seed(0)
    x, y = torch.randn(256, 1, 28, 28), torch.randint(0, 10, (256,))
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(), nn.Linear(144, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=run.hparams.learning_rate)
    criterion = nn.CrossEntropyLoss()

    step = 0
    for epoch in range(1, run.hparams.epochs + 1):
        model.train()
        for start in range(0, len(x) - 64, run.hparams.batch_size):
            batch = slice(start, start + run.hparams.batch_size)
            loss = criterion(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            run.log(type="train", metrics={"loss": loss}, step=step, epoch=epoch)
        model.eval()
        with torch.no_grad():
            scores = model(x[-64:])
            metrics = {"loss": criterion(scores, y[-64:]), "accuracy": (scores.argmax(1) == y[-64:]).float().mean()}
        run.log(type="val", metrics=metrics, step=step, epoch=epoch)

    torch.save(model.state_dict(), "model_state_dict.pt")
    artifact = em.create_artifact(name="mnist_torch_saved_model")
    artifact.add_file("model_state_dict.pt")
    run.mark_output(artifact)
    run.finish()


if __name__ == "__main__":
    main()

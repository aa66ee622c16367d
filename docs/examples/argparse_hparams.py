"""Fits a line by gradient descent, with hyperparameters from the command line."""

import argparse

from t9k import em


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()

    run = em.create_run(name="line", labels=["argparse"])
    run.hparams.update(args.__dict__)
    weight = 0.0
    points = [(x / 10, 3 * x / 10) for x in range(10)]
    for epoch in range(run.hparams.epochs):
        gradient = sum(2 * (weight * x - y) * x for x, y in points) / len(points)
        weight -= run.hparams.lr * gradient
        loss = sum((weight * x - y) ** 2 for x, y in points) / len(points)
        run.log("train", {"loss": loss}, step=epoch + 1, epoch=epoch + 1)
    run.log("test", {"loss": loss}, step=run.hparams.epochs)
    run.finish()
    print(run.local)


if __name__ == "__main__":
    main()

"""Share of logging in the time of a real small training on 28 x 28 pictures.

A network of two layers in NumPy, or with --torch a convolutional one in
PyTorch with Adam, which needs an interpreter that has it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from alternate import workplace
from t9k import em


class Network:
    """784 inputs, one hidden layer, ten classes; plain gradient descent."""

    def __init__(self, hidden: int) -> None:
        random = np.random.default_rng(0)
        self.x = random.standard_normal((4096, 784), dtype=np.float32)
        self.y = self.x[:, :10].argmax(1)
        self.w1 = random.standard_normal((784, hidden), dtype=np.float32) * np.float32(0.05)
        self.w2 = random.standard_normal((hidden, 10), dtype=np.float32) * np.float32(0.05)

    def step(self, number: int, batch: int, lr: np.float32) -> tuple[float, float]:
        """Makes one step, and returns loss and accuracy."""
        start = number * batch % (len(self.x) - batch)
        x, y = self.x[start : start + batch], self.y[start : start + batch]
        hidden = np.maximum(x @ self.w1, 0)
        scores = hidden @ self.w2
        scores -= scores.max(1, keepdims=True)
        odds = np.exp(scores)
        odds /= odds.sum(1, keepdims=True)
        rows = np.arange(batch)
        loss = float(-np.log(odds[rows, y] + 1e-9).mean())
        accuracy = float((odds.argmax(1) == y).mean())
        odds[rows, y] -= 1
        odds /= batch
        back = (odds @ self.w2.T) * (hidden > 0)
        self.w2 -= lr * (hidden.T @ odds)
        self.w1 -= lr * (x.T @ back)
        return loss, accuracy


Step = Callable[[int], tuple[float, float]]
"""Makes a step of a training, and returns loss and accuracy."""


def numpy_step(batch: int, hidden: int) -> Step:
    network, lr = Network(hidden), np.float32(0.05)
    return lambda number: network.step(number, batch, lr)


def torch_step(batch: int, hidden: int) -> Step:
    import torch
    from torch import nn

    torch.manual_seed(0)
    x = torch.randn(4096, 1, 28, 28)
    y = x[:, 0, 0, :10].argmax(1)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 7 * 7, hidden), nn.ReLU(), nn.Linear(hidden, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)

    def step(number: int) -> tuple[float, float]:
        start = number * batch % (len(x) - batch)
        pictures, labels = x[start : start + batch], y[start : start + batch]
        optimizer.zero_grad()
        scores = model(pictures)
        loss = nn.functional.cross_entropy(scores, labels)
        loss.backward()
        optimizer.step()
        return loss.item(), (scores.argmax(1) == labels).float().mean().item()

    return step


def train(make_step: Callable[[int, int], Step], steps: int, batch: int, hidden: int) -> dict[str, float]:
    """Returns medians: a call that the machine interrupts says nothing about logging."""
    step = make_step(batch, hidden)
    run = em.create_run(name="bench", hparams={"batch": batch, "hidden": hidden})
    clock = time.perf_counter
    steps_s, logs_s = [], []
    for number in range(steps):
        began = clock()
        loss, accuracy = step(number)
        stepped = clock()
        run.log("train", {"loss": loss, "accuracy": accuracy}, step=number)
        logs_s.append(clock() - stepped)
        steps_s.append(stepped - began)
    run.finish()
    return {"step_us": statistics.median(steps_s) * 1e6, "log_us": statistics.median(logs_s) * 1e6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with workplace():
        make_step = torch_step if options.torch else numpy_step
        found = [train(make_step, options.steps, options.batch, options.hidden) for _ in range(options.rounds)]
    row = {key: round(statistics.median(one[key] for one in found), 4) for key in found[0]}
    percent = 100 * row["log_us"] / (row["step_us"] + row["log_us"])
    row |= {"percent_at_each_step": round(percent, 4), "percent_at_each_10th_step": round(percent / 10, 4)}
    print(json.dumps({"bench": "training", "steps": options.steps, "rows": row}) if options.json else row)


if __name__ == "__main__":
    main()

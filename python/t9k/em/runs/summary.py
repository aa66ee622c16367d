"""The course of one metric: its points, the last and the best value, and which way is better."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from t9k.em.points import Points
from t9k.em.runs.values import to_float

# fmt: off
_LOWER_IS_BETTER = frozenset({
    "loss", "losses", "err", "error", "errors", "mse", "rmse", "mae", "mape", "nll", "ppl",
    "perplexity", "wer", "cer", "fid", "kl", "latency", "regret",
})
_HIGHER_IS_BETTER = frozenset({
    "acc", "accuracy", "f1", "auc", "auroc", "precision", "recall", "bleu", "rouge", "score", "map",
    "iou", "miou", "dice", "reward", "return", "r2", "psnr", "ssim", "throughput", "top1", "top5",
    "mrr", "ndcg",
})
# fmt: on
_WORDS = re.compile(r"[A-Z]?[a-z]+\d*|[A-Z]+\d*(?![a-z])|\d+")


def goal(metric: str) -> str | None:
    """Returns 'min' or 'max' as the metric's name suggests it, None if it does not."""
    words = {word.lower() for word in _WORDS.findall(metric)} | {metric.lower()}
    if words & _LOWER_IS_BETTER:
        return "min"
    return "max" if words & _HIGHER_IS_BETTER else None


@dataclass
class Series:
    """One metric's points in the order of their logging, 24 bytes each.

    Attributes:
        steps: Steps, NaN where there is none.
        values: Values.
        times_text: Timestamps, where they were asked for.
    """

    steps: array[float]
    values: array[float]
    times_text: list[str | None]

    def best(self, wanted: str | None) -> tuple[float, float] | None:
        """Returns the smallest ('min') or largest ('max') value that is a number, and its step."""
        if wanted is None:
            return None
        better = min if wanted == "min" else max
        numbers: Sequence[float] = self.values
        if math.isnan(sum(numbers)):  # a NaN, or two infinities
            numbers = [value for value in numbers if not math.isnan(value)]
        if not numbers:
            return None
        value = better(numbers)
        return value, self.steps[self.values.index(value)]  # the first of equal ones

    def averages(self, count: int) -> list[float]:
        """Returns the mean of each of `count` parts, NaN where a part has no finite value."""
        count = min(count, len(self.values))
        bounds = [index * len(self.values) // max(count, 1) for index in range(count + 1)]
        return [_mean(self.values[start:end]) for start, end in pairwise(bounds)]


def _mean(values: Sequence[float]) -> float:
    total = sum(values)
    if math.isfinite(total):
        return total / len(values)
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(value / len(finite) for value in finite) if finite else math.nan


def metric_series(points: Points, *, with_times: bool = False) -> dict[str, Series]:
    """Returns the course of each metric, in the order of their first logging."""
    found: dict[str, Series] = {}
    for batch in points.batches():
        for name, column in batch.metrics.items():
            series = found.setdefault(name, Series(array("d"), array("d"), []))
            if isinstance(column, array) and isinstance(batch.steps, array):
                series.values.extend(map(float, column) if column.typecode != "d" else column)
                series.steps.extend(map(float, batch.steps))
                if with_times:
                    series.times_text.extend(batch.timestamps)
                continue
            for value, step, time in zip(column, batch.steps, batch.timestamps, strict=True):
                if value is not None:
                    series.values.append(to_float(value))
                    series.steps.append(math.nan if step is None else to_float(step))
                    if with_times:
                        series.times_text.append(time)
    return found


_BLOCKS, _BLOCKS_ASCII = "▁▂▃▄▅▆▇█", "_.-=+*%#"


def sparkline(values: list[float], *, is_ascii: bool = False) -> str:
    """Draws values as one line of blocks; a space where there is no finite value."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return " " * len(values)
    low, high = min(finite), max(finite)
    blocks = _BLOCKS_ASCII if is_ascii else _BLOCKS
    # Halves first: the range of two large floats is infinite.
    scale = (high / 2 - low / 2) or 1.0
    return "".join(
        blocks[min(7, int((value / 2 - low / 2) / scale * 7.999))] if math.isfinite(value) else " " for value in values
    )

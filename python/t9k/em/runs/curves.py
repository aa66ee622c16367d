"""The lines of a plot: chosen metrics of runs, thinned to what can be seen, and the ticks of their axes."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from t9k.em.errors import NotFoundError
from t9k.em.runs.record import SYSTEM, ReadPoints, RunRecord, timestamp_s
from t9k.em.runs.summary import Series, metric_series

_MAX_NAMED = 20
_LARGEST = 1e300
"""Beyond, the range of two floats would be infinite."""


@dataclass
class Curve:
    """One metric of one run.

    Attributes:
        label: What the legend says.
        x: Steps, or seconds since the run's start.
        y: Values, of which some may be NaN or infinite.
    """

    label: str
    x: array[float]
    y: array[float]


Line = list[tuple[float, float]]
"""Points that are joined."""


def find_curves(
    records: Sequence[RunRecord], metrics: Sequence[str], x: str, read: ReadPoints = RunRecord.points
) -> list[Curve]:
    """Reads curves of runs.

    Args:
        records: The runs.
        metrics: ``type/name``, or a name, which is looked for in all types but the machine's.
        x: 'step' or 'time'.
        read: Reads the points of a type of a run.

    Raises:
        NotFoundError: No run has one of them.
    """
    curves, known, missing = [], dict[str, None](), dict.fromkeys(metrics)
    for record in records:
        for kind in record.kinds():
            for name, series in metric_series(read(record, kind), with_times=x == "time").items():
                known[f"{kind}/{name}"] = None
                chosen = [metric for metric in metrics if _names(metric, kind, name)]
                for metric in chosen:
                    missing.pop(metric, None)
                if chosen:
                    label = f"{kind}/{name}" if len(records) == 1 else f"{record.name} {kind}/{name}"
                    curves.append(Curve(label, _x(record, series, x), series.values))
    if missing:
        listed = ", ".join(list(known)[:_MAX_NAMED]) or "no metrics at all"
        raise NotFoundError(f"there is no metric {next(iter(missing))!r}", hint=f"there are {listed}")
    return curves


def _names(metric: str, kind: str, name: str) -> bool:
    return metric == f"{kind}/{name}" or (metric == name and kind != SYSTEM)


def _x(record: RunRecord, series: Series, x: str) -> array[float]:
    if x == "step":
        return series.steps
    start_s = record.started_s or 0.0
    moments = map(timestamp_s, series.times_text)
    return array("d", (math.nan if moment is None else moment - start_s for moment in moments))


@dataclass(frozen=True)
class View:
    """What a plot shows: ranges that are not empty, and whether the y axis is logarithmic (its values are log10)."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    is_log: bool


def view_of(lines: Iterable[Line], is_log: bool) -> View | None:
    """Returns the ranges of all points; None if there are none."""
    points = [point for line in lines for point in line]
    if not points:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return View(*_widened(min(xs), max(xs)), *_widened(min(ys), max(ys)), is_log)


def _widened(low: float, high: float) -> tuple[float, float]:
    if low < high:
        return low, high
    margin = abs(low) / 2 or 1.0
    return low - margin, high + margin


def thinned(curve: Curve, columns: int, is_log: bool) -> list[Line]:
    """Returns the curve in pieces without gaps, of at most four points a column: first, least, greatest and last.

    Points that are not finite, or not positive on a logarithmic axis, are gaps.
    """
    pieces: list[Line] = [[]]
    for x, y in zip(curve.x, curve.y, strict=True):
        if math.isfinite(x) and math.isfinite(y) and (y > 0 or not is_log):
            pieces[-1].append((_clamped(x), math.log10(y) if is_log else _clamped(y)))
        elif pieces[-1]:
            pieces.append([])
    pieces = [piece for piece in pieces if piece]
    count = sum(map(len, pieces))
    if count <= 4 * columns:
        return pieces
    # A gap of some points among so many is not seen.
    whole = [point for piece in pieces for point in piece]
    thin: Line = []
    for column in range(columns):
        part = whole[column * count // columns : (column + 1) * count // columns]
        ys = [y for _, y in part]
        seen = {0, len(part) - 1, ys.index(min(ys)), ys.index(max(ys))}
        thin += [part[index] for index in sorted(seen)]
    return [thin]


def _clamped(value: float) -> float:
    return min(max(value, -_LARGEST), _LARGEST)


def ticks(low: float, high: float, count: int) -> list[float]:
    """Returns about so many round numbers within a range."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next((factor * power for factor in (1, 2, 5, 10) if factor * power >= raw), 10 * power)
    first = math.ceil(low / step)
    return [index * step for index in range(first, first + 2 * count + 2) if index * step <= high]


def tick_text(value: float, is_log: bool = False) -> str:
    """Returns a tick's label."""
    if is_log:
        value = 10.0 ** min(value, 308.0)
    is_whole = value == round(value) and 1e4 <= abs(value) < 1e7
    return f"{value:.0f}" if is_whole else f"{value:.4g}"

"""Logged points as batches of columns, and back as lines of a metrics file."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from t9k.em.points import Points
from t9k.protocol.metric_batch import MAX_BATCH_BYTES, MAX_BATCH_POINTS, NO_EPOCH, NOT_LOGGED, Batch, encode_batch

_LEAST, _MOST = -(2**63) + 1, 2**63 - 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def batches(points: Points) -> Iterator[bytes]:
    """The points in as few batches as the server takes."""
    count = len(points)
    if not count:
        return
    names = points.names()
    steps = array("q", map(_whole, points.at("step")))
    epochs = array("q", (NO_EPOCH if epoch is None else _whole(epoch) for epoch in points.at("epoch")))
    times_us = array("q", map(_time_us, points.at("timestamp")))
    values = {name: array("d", map(_number, points.column(name))) for name in names}
    head_bytes = 64 + sum(len(name.encode()) + 2 for name in names)
    at_once = max(1, min(MAX_BATCH_POINTS, (MAX_BATCH_BYTES - head_bytes) // (8 * (3 + len(names)))))
    for first in range(0, count, at_once):
        part = slice(first, first + at_once)
        columns = {name: column[part] for name, column in values.items()}
        yield encode_batch(Batch(steps[part], epochs[part], times_us[part], columns))


def _whole(value: int) -> int:
    return max(_LEAST, min(_MOST, value))


def _number(value: Any) -> float:
    if value is None:
        return NOT_LOGGED
    try:
        number = float(value)
    except OverflowError:  # an integer beyond 1.8e308
        number = float("inf") if value > 0 else float("-inf")
    return number


def _time_us(stamp: Any) -> int:
    try:
        time = datetime.fromisoformat(stamp)
    except (TypeError, ValueError):
        return 0
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def stamp_of(time_us: int) -> str:
    """A time as lines of a metrics file have it."""
    time = _EPOCH + timedelta(microseconds=time_us)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")

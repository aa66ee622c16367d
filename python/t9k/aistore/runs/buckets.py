"""The course of a metric for a chart: least, greatest and last value in each of as many buckets as it has pixels."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import le

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import metrics
from t9k.aistore.errors import invalid
from t9k.aistore.runs import blocks
from t9k.aistore.runs.batches import Summary, least, summarize
from t9k.aistore.runs.points import series

MAX_WIDTH = 10_000
MAX_BUCKETS = 200_000
"""Buckets of all metrics of one answer."""

MAX_VALUES = 20_000_000
"""Values that an answer with several metrics is made of: about a second. One metric may always be asked for."""


@dataclass(frozen=True)
class Scale:
    """Steps `first` to `last`, both in it, in `width` buckets that differ by at most one step."""

    first: int
    last: int
    width: int

    def bucket(self, step: int) -> int:
        """Where a step belongs."""
        return (step - self.first) * self.width // (self.last - self.first + 1)

    def start(self, bucket: int) -> int:
        """The first step of a bucket."""
        return self.first - (-bucket * (self.last - self.first + 1) // self.width)


@dataclass
class Course:
    """A metric in buckets that have a point of it, by their numbers."""

    name: str
    buckets: dict[int, Summary] = field(default_factory=dict)

    def add(self, bucket: int, found: Summary | None) -> None:
        """Adds what follows in the order of logging."""
        if found is None:
            return
        before = self.buckets.get(bucket)
        if before is not None:
            lowest, highest = least(min, before.min, found.min), least(max, before.max, found.max)
            found = Summary(before.logged + found.logged, found.last, found.last_step, lowest, highest)
        self.buckets[bucket] = found


def course(
    connection: metrics.Connection,
    caller: Caller,
    run_id: str,
    kind: str,
    names: Sequence[str],
    *,
    first_step: int | None = None,
    last_step: int | None = None,
    width: int,
) -> tuple[Scale, list[Course]]:
    """Metrics in buckets of steps; without a range, from the type's least step to its greatest.

    Reads only blocks that have steps in the range, and of them only the columns of these metrics.

    Raises:
        Refusal: As `runs.points.series`; the range is empty, or has too much (`invalid_input`).
    """
    numbers = series(connection, caller, run_id, kind, names)
    known = metrics.type_of(connection, run_id, kind)
    assert known is not None
    first = known.first_step if first_step is None else first_step
    last = max(first, known.last_step) if last_step is None else last_step
    if last < first:
        raise invalid(f"step {last} is before step {first}")
    width = min(width, last - first + 1, max(1, MAX_BUCKETS // max(1, len(numbers))))
    scale = Scale(first, last, width)
    courses = [Course(name) for name in numbers]
    rows = metrics.blocks_of(connection, run_id, kind, first_step=first, last_step=last)
    if len(numbers) > 1 and sum(row.points for row in rows) * len(numbers) > MAX_VALUES:
        raise invalid(f"{len(numbers)} metrics have too many points for one chart", hint="name fewer, or fewer steps")
    for columns in blocks.read(connection, rows, numbers, needs_all=False):
        parts = list(_parts(columns.steps, scale))
        for found, number in zip(courses, numbers.values(), strict=True):
            if (values := columns.values.get(number)) is not None:
                for bucket, start, stop in parts:
                    found.add(bucket, summarize(columns.steps[start:stop], values[start:stop]))
    return scale, courses


def _parts(steps: array[int], scale: Scale) -> Iterator[tuple[int, int, int]]:
    """Bucket, start and stop of neighbouring points that share a bucket."""
    if all(map(le, steps, steps[1:])):
        start, end = bisect.bisect_left(steps, scale.first), bisect.bisect_right(steps, scale.last)
        while start < end:
            bucket = scale.bucket(steps[start])
            stop = bisect.bisect_left(steps, scale.start(bucket + 1), start, end)
            yield bucket, start, stop
            start = stop
        return
    places = [scale.bucket(step) if scale.first <= step <= scale.last else -1 for step in steps]
    edges = [0, *(index + 1 for index, (one, other) in enumerate(pairwise(places)) if one != other), len(places)]
    for start, stop in pairwise(edges):
        if places[start] >= 0:
            yield places[start], start, stop

"""The points that an export writes, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

from t9k.em.points import Columns, Points
from t9k.em.runs.record import SYSTEM, RunRecord

KEYS = ("run", "type", "step", "epoch", "timestamp")
"""What each point has besides its metrics."""

Progress = Callable[[int, int, int, int], object]
"""Is told files and bytes that were read, and how many there are."""


class Selection:
    """Some types of metrics of some runs. One type of one run is in memory at a time."""

    def __init__(self, records: Sequence[RunRecord], kinds: Sequence[str], progress: Progress) -> None:
        """Reads nothing yet.

        Args:
            records: The runs.
            kinds: Types of metrics; without any, all but the machine's.
            progress: Called after each batch.
        """
        self.records = records
        self._kinds = kinds
        self._progress = progress
        paths = [record.metrics_path(kind) for record in records for kind in self.kinds_of(record)]
        self._files = self._bytes = 0
        self._total_files, self._total_bytes = len(paths), sum(map(os.path.getsize, paths))

    def kinds_of(self, record: RunRecord) -> list[str]:
        """Returns the chosen types that a run has."""
        return [kind for kind in record.kinds() if (kind in self._kinds if self._kinds else kind != SYSTEM)]

    def columns(self) -> dict[str, str]:
        """Reads all files once, and returns the column of each metric; one named like a key is ``metrics.<name>``."""
        self._total_files, self._total_bytes = 2 * self._total_files, 2 * self._total_bytes  # they are read again
        names: dict[str, None] = {}
        for record in self.records:
            for kind in self.kinds_of(record):
                names.update(dict.fromkeys(self._points(record, kind).names()))
                self._add(1, os.path.getsize(record.metrics_path(kind)))
        return {name: f"metrics.{name}" if name in KEYS else name for name in names}

    def batches(self) -> Iterator[tuple[str, str, Columns]]:
        """Yields run, type and some points."""
        for record in self.records:
            for kind in self.kinds_of(record):
                for batch in self.batches_of(record, kind):
                    yield record.name, kind, batch

    def batches_of(self, record: RunRecord, kind: str) -> Iterator[Columns]:
        """Yields the points of one type of one run."""
        points = self._points(record, kind)
        size_bytes = os.path.getsize(record.metrics_path(kind))
        for batch in points.batches():
            yield batch
            self._add(0, size_bytes * len(batch.steps) // len(points))
        self._add(1, 0)

    def _points(self, record: RunRecord, kind: str) -> Points:
        self._add(0, 0)
        return record.points(kind)

    def _add(self, files: int, size_bytes: int) -> None:
        self._files += files
        self._bytes += size_bytes
        self._progress(self._files, self._bytes, self._total_files, self._total_bytes)

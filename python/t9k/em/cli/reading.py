"""Reading metrics with progress on the terminal."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence

from t9k.em.points import Points
from t9k.em.progress import Progress
from t9k.em.runs.record import ReadPoints, RunRecord


@contextlib.contextmanager
def shown_reading(records: Sequence[RunRecord]) -> Iterator[ReadPoints]:
    """Gives what reads the points of these runs."""
    paths = [record.metrics_path(kind) for record in records for kind in record.kinds()]
    total_bytes = sum(map(os.path.getsize, paths))
    files = read_bytes = 0
    with Progress("read") as progress:

        def count(size_bytes: int) -> None:
            nonlocal read_bytes
            read_bytes += size_bytes
            progress(files, read_bytes, len(paths), total_bytes)

        def read(record: RunRecord, kind: str) -> Points:
            nonlocal files
            files += 1
            return record.points(kind, count)

        yield read

"""Runs as CSV: a row for each log call, a column for each metric."""

from __future__ import annotations

import csv
from itertools import repeat
from typing import IO, Any

from t9k.em.runs.selection import KEYS, Selection


def write_csv(selection: Selection, file: IO[str]) -> None:
    """Writes a header and rows; what a row lacks is empty, and NaN and infinities are nan and inf."""
    columns = selection.columns()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*KEYS, *columns.values()])
    for run, kind, batch in selection.batches():
        nothing: Any = repeat(None)
        metrics = (batch.metrics.get(name, nothing) for name in columns)
        rows = zip(repeat(run), repeat(kind), batch.steps, batch.epochs, batch.timestamps, *metrics)
        writer.writerows(rows)

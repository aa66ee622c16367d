"""Runs as one JSON document: a list of what `Run.to_dict` returns, written batch by batch."""

from __future__ import annotations

import json
from typing import IO, Any

from t9k.em.points import Columns
from t9k.em.runs.selection import Selection
from t9k.em.runs.values import json_value


def write_json(selection: Selection, file: IO[str]) -> None:
    """Writes a list of runs; NaN and the infinities, which JSON lacks, are the texts NaN, Infinity and -Infinity."""
    file.write("[")
    for index, record in enumerate(selection.records):
        head = json.dumps(json_value(record.to_dict()), ensure_ascii=False)
        file.write((",\n" if index else "") + head[:-1] + ', "metrics": {')
        for number, kind in enumerate(selection.kinds_of(record)):
            file.write((", " if number else "") + json.dumps(kind, ensure_ascii=False) + ": [")
            separator = "\n"
            for batch in selection.batches_of(record, kind):
                lines = [json.dumps(point, ensure_ascii=False) for point in _points(batch)]
                file.write(separator + ",\n".join(lines))
                separator = ",\n"
            file.write("]")
        file.write("}}")
    file.write("]\n")


def _points(batch: Columns) -> list[dict[str, dict[str, Any]]]:
    names = list(batch.metrics)
    values = zip(*batch.metrics.values(), strict=True)
    ats = zip(batch.steps, batch.epochs, batch.timestamps, strict=True)
    return [
        {
            "metrics": {name: json_value(value) for name, value in zip(names, row, strict=True) if value is not None},
            "at": {
                key: value for key, value in zip(("step", "epoch", "timestamp"), at, strict=True) if value is not None
            },
        }
        for row, at in zip(values, ats, strict=True)
    ]

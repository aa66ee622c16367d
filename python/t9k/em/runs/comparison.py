"""What differs between runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t9k.em.notebook import flatten
from t9k.em.runs.record import SYSTEM, ReadPoints, RunRecord
from t9k.em.runs.summary import goal, metric_series


@dataclass(frozen=True)
class ComparedMetric:
    """One metric in all runs; None where a run has not logged it.

    Attributes:
        winners: Indexes of the runs whose best value is the best of all.
    """

    kind: str
    name: str
    last: list[float | None]
    best: list[float | None]
    winners: list[int]


@dataclass(frozen=True)
class Comparison:
    """Attributes, parameters and metrics of runs, without what is equal in all of them.

    Attributes:
        fields: Dotted key to the value in each run, None where it is absent.
        equal_params: How many parameters are the same in all.
    """

    names: list[str]
    fields: dict[str, list[Any]]
    equal_params: int
    metrics: list[ComparedMetric]


def compare_runs(records: Sequence[RunRecord], read: ReadPoints = RunRecord.points) -> Comparison:
    """Reads and compares runs."""
    described = [_fields(record) for record in records]
    keys = dict.fromkeys(key for fields in described for key in fields)
    columns = {key: [fields.get(key) for fields in described] for key in keys}
    # By their text too: 1, 1.0 and True are equal, but are not the same parameter.
    different = {key: values for key, values in columns.items() if len({repr(value) for value in values}) > 1}
    equal = sum(key not in different and key.startswith("hparams.") for key in columns)
    return Comparison([record.name for record in records], different, equal, _metrics(records, read))


def _fields(record: RunRecord) -> dict[str, Any]:
    described = record.to_dict()
    fields: dict[str, Any] = {
        "status": record.status,
        "labels": ", ".join(record.labels) or None,
        "description": record.text("description") or None,
        "git.commit": described["git"].get("commit"),
    }
    return fields | dict(flatten(described["hparams"], "hparams."))


def _metrics(records: Sequence[RunRecord], read: ReadPoints) -> list[ComparedMetric]:
    last: dict[tuple[str, str], list[float | None]] = {}
    best: dict[tuple[str, str], list[float | None]] = {}
    for index, record in enumerate(records):
        for kind in record.kinds():
            for name, series in metric_series(read(record, kind)).items() if kind != SYSTEM else ():
                if not series.values:
                    continue
                found = series.best(goal(name))
                last.setdefault((kind, name), [None] * len(records))[index] = series.values[-1]
                best.setdefault((kind, name), [None] * len(records))[index] = found and found[0]
    return [
        ComparedMetric(kind, name, last[kind, name], best[kind, name], _winners(best[kind, name], goal(name)))
        for kind, name in last
        if any(len({repr(value) for value in values[kind, name]}) > 1 for values in (last, best))
    ]


def _winners(values: list[float | None], wanted: str | None) -> list[int]:
    known = [value for value in values if value is not None]
    if not known or wanted is None:
        return []
    top = min(known) if wanted == "min" else max(known)
    winners = [index for index, value in enumerate(values) if value == top]
    return winners if len(winners) < len(values) else []

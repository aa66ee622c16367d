"""Metrics as a pandas or polars data frame."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from t9k.em.errors import InvalidInputError
from t9k.em.points import Points

_LIBRARIES = ("pandas", "polars")


def make_dataframe(metrics: Mapping[str, Sequence[dict[str, dict[str, Any]]]], library: str | None) -> Any:
    """Returns a row for each point of each type, with a column for each metric.

    A metric named like one of ``type``, ``step``, ``epoch`` and ``timestamp``
    gets the column ``metrics.<name>``.

    Raises:
        InvalidInputError: Another library is named, or none is installed.
    """
    if library not in (None, *_LIBRARIES):
        raise InvalidInputError(f"library is {library!r}, not one of 'pandas' and 'polars'")
    for name in [library] if library else _LIBRARIES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return module.DataFrame(make_columns(metrics))
    wanted = library or "pandas or polars"
    raise InvalidInputError(f"a data frame needs {wanted}, which is not installed", hint="pip install pandas")


def make_columns(metrics: Mapping[str, Sequence[dict[str, dict[str, Any]]]]) -> dict[str, list[Any]]:
    """Returns the columns of the data frame, all of one length."""
    columns: dict[str, list[Any]] = {"type": [], "step": [], "epoch": [], "timestamp": []}
    reserved = set(columns)
    names: dict[str, None] = {}
    tables: dict[str, Points] = {}
    for kind, points in metrics.items():
        table = points if isinstance(points, Points) else Points()
        if table is not points:
            table.add(list(points))
        tables[kind] = table
        names.update(dict.fromkeys(table.names()))
    for kind, table in tables.items():
        columns["type"].extend([kind] * len(table))
        for name in ("step", "epoch", "timestamp"):
            columns[name].extend(table.at(name))
    for name in names:
        key = f"metrics.{name}" if name in reserved else name
        columns[key] = [value for table in tables.values() for value in table.column(name)]
    return columns

"""Runs as a Parquet file, by pyarrow."""

from __future__ import annotations

import importlib
from array import array
from collections.abc import Sequence
from typing import Any

from t9k.em.errors import InvalidInputError
from t9k.em.runs.record import timestamp_s
from t9k.em.runs.selection import KEYS, Selection
from t9k.em.runs.values import to_float


def write_parquet(selection: Selection, path: str) -> None:
    """Writes the table of `write_csv`: metrics are doubles, steps and epochs 64-bit integers, times in UTC.

    Raises:
        InvalidInputError: pyarrow is not installed, or a step has more than 64 bits.
    """
    try:
        pa = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise InvalidInputError(
            "export to parquet needs pyarrow, which is not installed", hint="pip install pyarrow"
        ) from None
    columns = selection.columns()
    text = pa.dictionary(pa.int32(), pa.string())
    types = [text, text, pa.int64(), pa.int64(), pa.timestamp("ms", tz="UTC"), *[pa.float64()] * len(columns)]
    schema = pa.schema(list(zip([*KEYS, *columns.values()], types, strict=True)))
    with parquet.ParquetWriter(path, schema) as writer:
        for run, kind, batch in selection.batches():
            count = len(batch.steps)
            names = [pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), [name]) for name in (run, kind)]
            numbers = [_integers(pa, batch.steps), _integers(pa, batch.epochs), _times(pa, batch.timestamps)]
            metrics = [_doubles(pa, batch.metrics.get(name), count) for name in columns]
            writer.write_batch(pa.record_batch([*names, *numbers, *metrics], schema=schema))


def _integers(pa: Any, values: Sequence[Any]) -> Any:
    try:
        return pa.array(values, pa.int64())
    except (pa.ArrowInvalid, OverflowError) as error:
        raise InvalidInputError("a step or epoch has more than the 64 bits of a Parquet integer") from error


def _times(pa: Any, texts: Sequence[Any]) -> Any:
    kind = pa.timestamp("ms", tz="UTC")
    try:
        return pa.array(texts, pa.string()).cast(kind)
    except pa.ArrowInvalid:  # not all are of our form
        seconds = [timestamp_s(text) for text in texts]
        return pa.array([None if moment is None else round(moment * 1000) for moment in seconds], kind)


def _doubles(pa: Any, values: Sequence[Any] | None, count: int) -> Any:
    if values is None:
        return pa.nulls(count, pa.float64())
    if isinstance(values, array) and values.typecode == "d":
        return pa.Array.from_buffers(pa.float64(), count, [None, pa.py_buffer(values)])
    return pa.array([None if value is None else to_float(value) for value in values], pa.float64())

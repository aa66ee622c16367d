"""Runs as TensorBoard event files, by the tensorboard package."""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from typing import Any

from t9k.em.errors import InvalidInputError
from t9k.em.points import Columns
from t9k.em.runs.record import timestamp_s
from t9k.em.runs.selection import Selection
from t9k.em.runs.values import to_float


def import_tensorboard(module: str) -> Any:
    """Returns a module of the tensorboard package.

    Raises:
        InvalidInputError: The package is not installed.
    """
    try:
        return importlib.import_module(f"tensorboard.{module}")
    except ImportError:
        raise InvalidInputError(
            "event files need tensorboard, which is not installed", hint="pip install tensorboard"
        ) from None


def write_tensorboard(selection: Selection, folder: str) -> None:
    """Writes ``<folder>/<alternative name>/events.out.tfevents.…`` with the scalars ``<type>/<metric>``.

    Raises:
        InvalidInputError: The package is not installed, or a run is there already: its points would show twice.
    """
    event_pb2 = import_tensorboard("compat.proto.event_pb2")
    summary_pb2 = import_tensorboard("compat.proto.summary_pb2")
    record_writer = import_tensorboard("summary.writer.record_writer")
    for record in selection.records:
        directory = os.path.join(folder, record.name)
        os.makedirs(folder, exist_ok=True)
        try:
            os.mkdir(directory)
        except FileExistsError:
            raise InvalidInputError(f"{directory} is there already", hint="export to another directory") from None
        start_s = record.started_s or time.time()
        with open(os.path.join(directory, f"events.out.tfevents.{int(start_s)}.em"), "xb") as file:
            writer = record_writer.RecordWriter(file)
            writer.write(event_pb2.Event(wall_time=start_s, file_version="brain.Event:2").SerializeToString())
            for kind in selection.kinds_of(record):
                for batch in selection.batches_of(record, kind):
                    for event in _events(kind, batch, start_s, event_pb2.Event, summary_pb2.Summary):
                        writer.write(event)


def _events(kind: str, batch: Columns, start_s: float, event_of: Any, summary_of: Any) -> Iterator[bytes]:
    tags = [f"{kind}/{name}" for name in batch.metrics]
    rows = zip(*batch.metrics.values(), strict=True)
    for step, timestamp, row in zip(batch.steps, batch.timestamps, rows, strict=True):
        values = [
            summary_of.Value(tag=tag, simple_value=to_float(value))
            for tag, value in zip(tags, row, strict=True)
            if value is not None
        ]
        wall_time = timestamp_s(timestamp) or start_s
        event = event_of(wall_time=wall_time, step=_int64(step), summary=summary_of(value=values))
        yield event.SerializeToString()


def _int64(step: int | None) -> int:
    return max(-(2**63), min(step or 0, 2**63 - 1))

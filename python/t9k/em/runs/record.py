"""A run's directory as it is read: nothing is repaired, continued or written, unlike by `load_run`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from t9k.em.capture import heartbeat
from t9k.em.errors import EmError, NotFoundError
from t9k.em.metrics import read_metrics
from t9k.em.points import Points
from t9k.em.run_files import read_yaml

SYSTEM = "system"
"""Type of the metrics that the machine logs, not the script."""

_FIRST_KINDS = ("train", "val", "test")


def run_parent_dir() -> str:
    """Where new runs go: `EM_RUN_PARENT_DIR`, by default `.em/runs`."""
    return os.environ.get("EM_RUN_PARENT_DIR") or os.path.join(".em", "runs")


@dataclass(frozen=True)
class RunRecord:
    """A run as its files tell. Values of other types than ours are shown as text.

    Attributes:
        path: The run's directory.
        metadata: What metadata.yaml holds.
        status: Running, Complete, Failed, or Crashed when the process went away.
    """

    path: str
    metadata: Mapping[str, Any]
    status: str

    def text(self, key: str) -> str:
        """Returns a field of the metadata as text, '' if it is absent."""
        value = self.metadata.get(key)
        return "" if value is None else str(value)

    @property
    def name(self) -> str:
        """The directory's name, which is the alternative name."""
        return os.path.basename(os.path.abspath(self.path))

    @property
    def labels(self) -> list[str]:
        """Labels of the run."""
        labels = self.metadata.get("labels")
        return [str(label) for label in labels] if isinstance(labels, list) else []

    @property
    def started_s(self) -> float | None:
        """Start in seconds since the epoch."""
        return timestamp_s(self.metadata.get("start_timestamp"))

    @property
    def duration_s(self) -> float | None:
        """Seconds from the start to the end, to the last heartbeat of a crashed run, or until now."""
        start, end = self.started_s, timestamp_s(self.metadata.get("end_timestamp"))
        if end is None and self.status == "Running":
            end = time.time()
        elif end is None:
            try:
                end = os.stat(os.path.join(self.path, heartbeat.FILE)).st_mtime
            except OSError:
                end = None
        return None if start is None or end is None else max(0.0, end - start)

    @cached_property
    def hparams(self) -> dict[str, Any]:
        """Hyperparameters, none if the process died before it wrote them."""
        return self._file("hyperparameters.yaml")

    def _file(self, name: str) -> dict[str, Any]:
        path = os.path.join(self.path, name)
        return read_yaml(path) if os.path.isfile(path) else {}

    def associations(self, side: str) -> list[dict[str, Any]]:
        """Returns the ``inputs`` or ``outputs``."""
        sides = self.metadata.get("associations")
        marks = sides.get(side) if isinstance(sides, Mapping) else None
        return [mark for mark in marks if isinstance(mark, dict)] if isinstance(marks, list) else []

    def kinds(self) -> list[str]:
        """Returns the types of metrics, the standard ones first."""
        try:
            with os.scandir(os.path.join(self.path, "metrics")) as entries:
                names = [entry.name for entry in entries if entry.is_file()]  # reading a pipe would wait for ever
        except (FileNotFoundError, NotADirectoryError):
            return []
        kinds = sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))
        return sorted(kinds, key=lambda kind: _FIRST_KINDS.index(kind) if kind in _FIRST_KINDS else 3)

    def metrics_path(self, kind: str) -> str:
        """Returns the file of a type of metrics."""
        return os.path.join(self.path, "metrics", f"{kind}.yaml")

    def points(self, kind: str, progress: Callable[[int], object] | None = None) -> Points:
        """Reads all points of a type; ``progress`` is told how many more bytes were read."""
        return read_metrics(self.metrics_path(kind), progress).points

    def to_dict(self) -> dict[str, Any]:
        """Returns everything but the metrics, in the form of `Run.to_dict`."""
        return {
            "metadata": {**self.metadata, "status": self.status},
            "hparams": self.hparams,
            "platform": self._file("platform.yaml"),
            "git": self._file("git.yaml"),
        }


ReadPoints = Callable[[RunRecord, str], Points]
"""Reads the points of a type of a run: `RunRecord.points`, or what shows progress besides."""


def timestamp_s(text: object) -> float | None:
    """Returns the seconds since the epoch of an ISO 8601 text, None if it is none."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
        return None if moment is None else (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


def read_record(path: str) -> RunRecord:
    """Reads a run's metadata.

    Raises:
        NotFoundError: There is no run.
        InvalidInputError: Its metadata is not that of a run.
        StoreError: It cannot be read.
    """
    file = os.path.join(path, "metadata.yaml")
    if not os.path.isfile(file):
        raise NotFoundError(f"there is no run at {path}")
    metadata = read_yaml(file)
    status = str(metadata.get("status") or "Running")
    process = metadata.get("process")
    if status == "Running" and isinstance(process, Mapping) and heartbeat.is_gone(process, path):
        status = "Crashed"
    return RunRecord(path, metadata, status)


def find_records(parent: str) -> tuple[list[RunRecord], list[str]]:
    """Reads the metadata of all runs in a directory, the newest first.

    Returns:
        The runs, and a message for each one that cannot be read. A run that is
        being created has no metadata yet and is left out.
    """
    records, problems = [], []
    for name in sorted(os.listdir(parent) if os.path.isdir(parent) else []):
        if name.startswith("."):  # an import that goes on
            continue
        try:
            records.append(read_record(os.path.join(parent, name)))
        except NotFoundError:
            continue
        except EmError as error:
            problems.append(str(error))
    records.sort(key=lambda record: (record.started_s or 0.0, record.name), reverse=True)
    return records, problems

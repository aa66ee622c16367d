"""Runs of mlflow's file store: a directory for each, a file for each parameter, tag and metric.

Symbolic links in it are not followed: they could lead to files that mlflow never had.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator

from t9k.em.errors import EmError
from t9k.em.run_files import read_yaml
from t9k.em.runs.imported import split_tag
from t9k.em.runs.mlflow_run import MlflowRun, Scalar, seconds

_STATES = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_MAX_VALUE_BYTES = 1 << 20
_OPEN_FILES = 200


def file_runs(folder: str) -> Iterator[MlflowRun]:
    """Yields the runs of a file store, of one experiment, or one run; deleted ones are left out."""
    for directory in _find(folder):
        meta = read_yaml(os.path.join(directory, "meta.yaml"))
        if meta.get("lifecycle_stage") == "deleted":
            continue
        tags = dict(_values(os.path.join(directory, "tags")))
        run_id = str(meta.get("run_id") or meta.get("run_uuid") or os.path.basename(directory))
        yield MlflowRun(
            run_id=run_id,
            name=str(meta.get("run_name") or tags.get("mlflow.runName") or run_id),
            status=_STATES.get(meta.get("status", 3), "FINISHED"),
            started_s=seconds(meta.get("start_time")) or 0.0,
            ended_s=seconds(meta.get("end_time")),
            experiment=_experiment(directory),
            params=dict(_values(os.path.join(directory, "params"))),
            tags=tags,
            scalars=_scalars(os.path.join(directory, "metrics")),
            artifacts=os.path.join(directory, "artifacts"),
            source=directory,
        )


def _find(folder: str) -> Iterator[str]:
    """Directories with the files of one run: the folder, or below it or its experiments."""
    for directory, directories, names in os.walk(folder):
        depth = 0 if directory == folder else os.path.relpath(directory, folder).count(os.sep) + 1
        directories[:] = sorted(name for name in directories if not name.startswith(".")) if depth < 3 else []
        if "meta.yaml" in names and os.path.isdir(os.path.join(directory, "metrics")):
            yield directory
            directories.clear()


def _experiment(directory: str) -> str:
    try:
        name = read_yaml(os.path.join(os.path.dirname(os.path.abspath(directory)), "meta.yaml")).get("name")
    except EmError:  # one run alone, without its experiment
        return ""
    return name if isinstance(name, str) else ""


def _files(folder: str) -> Iterator[tuple[str, str]]:
    """Key and path of each file; a key with slashes is in directories."""
    for directory, directories, names in os.walk(folder):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                yield os.path.relpath(path, folder), path


def _values(folder: str) -> Iterator[tuple[str, str]]:
    for key, path in _files(folder):
        with open(path, "rb") as file:
            yield key, file.read(_MAX_VALUE_BYTES).decode(errors="replace")


def _scalars(folder: str) -> Iterator[Scalar | None]:
    """Merges the files of one type, which are one for each metric, by their times."""
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for key, path in _files(folder):
        kind, name = split_tag(key)
        by_kind.setdefault(kind, []).append((name, path))
    for kind, files in by_kind.items():
        for start in range(0, len(files), _OPEN_FILES):
            streams = [_points(name, path) for name, path in files[start : start + _OPEN_FILES]]
            for time_s, step, name, value in heapq.merge(*streams):
                yield (kind, name, step, time_s, value) if name else None


def _points(name: str, path: str) -> Iterator[tuple[float, int, str, float]]:
    """Yields time, step, name and value; the name is empty where a line cannot be read."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                milliseconds, value, *step = line.split()[:3]
                yield int(milliseconds) / 1000, int(step[0]) if step else 0, name, float(value)
            except (ValueError, OverflowError):
                yield 0.0, 0, "", 0.0

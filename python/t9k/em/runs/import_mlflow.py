"""The runs of mlflow's file store (`mlruns/`), read without mlflow."""

from __future__ import annotations

import heapq
import math
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from t9k.em.errors import EmError, InvalidInputError
from t9k.em.run_files import read_yaml
from t9k.em.runs.imported import ImportedRun, Outcome, iso_time, split_tag

_STATES = {1: "Crashed", 2: "Crashed", 3: "Complete", 4: "Failed", 5: "Failed"}
"""mlflow's RunStatus; a run that is not finished there will not be here."""

_MAX_VALUE_BYTES = 1 << 20
_OPEN_FILES = 200
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WORDS = {"True": True, "False": False, "None": None}


def import_file_store(folder: str, parent: str) -> Iterator[Outcome]:
    """Imports all runs of a file store, of one experiment, or one run, and yields each when it is there.

    Args:
        folder: The directory.
        parent: Where the runs go.

    Raises:
        InvalidInputError: There are no runs.
    """
    directories = sorted(_find(folder))
    if not directories:
        is_database = any(name.endswith(".db") for name in os.listdir(folder))
        hint = "only the file store, mlruns/, can be imported, not a database" if is_database else None
        raise InvalidInputError(f"there are no runs of mlflow in {folder}", hint=hint)
    for directory in directories:
        meta = read_yaml(os.path.join(directory, "meta.yaml"))
        if meta.get("lifecycle_stage") == "deleted":
            continue
        yield _import_run(directory, meta, parent)


def _find(folder: str) -> Iterator[str]:
    """Directories with the files of one run: the folder, or below it or its experiments."""
    for directory, directories, names in os.walk(folder):
        depth = os.path.relpath(directory, folder).count(os.sep) + (directory != folder)
        if "meta.yaml" in names and os.path.isdir(os.path.join(directory, "metrics")):
            yield directory
            directories.clear()
        if depth >= 3:
            directories.clear()
        directories[:] = [name for name in directories if not name.startswith(".")]


def _import_run(directory: str, meta: Mapping[str, Any], parent: str) -> Outcome:
    run_id = str(meta.get("run_id") or meta.get("run_uuid") or os.path.basename(directory))
    tags = dict(_values(os.path.join(directory, "tags")))
    name = str(meta.get("run_name") or tags.get("mlflow.runName") or run_id)
    run = ImportedRun(parent, name, f"mlflow:{run_id}", _seconds(meta.get("start_time")) or 0.0)
    if run.is_there():
        return Outcome(run.path, False)
    with run:
        run.hparams = {key: _plain(value) for key, value in _values(os.path.join(directory, "params"))}
        _log_metrics(run, os.path.join(directory, "metrics"))
        run.metadata["status"] = _STATES.get(meta.get("status", 3), "Complete")
        if (ended_s := _seconds(meta.get("end_time"))) is not None:
            run.metadata["end_timestamp"] = iso_time(ended_s)
        run.metadata["description"] = tags.get("mlflow.note.content", "")
        run.metadata["labels"] = _labels(directory, tags)
        if commit := tags.get("mlflow.source.git.commit"):
            run.git["commit"] = commit
        run.platform["imported_from"] = {"tool": "mlflow", "run_id": run_id, "path": os.path.abspath(directory)}
        notes = _add_artifacts(run, os.path.join(directory, "artifacts"))
    if run.left_out:
        notes.append(f"{run.left_out} values were left out")
    return Outcome(run.path, True, notes)


def _values(folder: str) -> Iterator[tuple[str, str]]:
    """Key and value of params or tags, which are a file each; a key with slashes is in directories."""
    for directory, directories, names in os.walk(folder):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            with open(path, "rb") as file:
                text = file.read(_MAX_VALUE_BYTES).decode(errors="replace")
            yield os.path.relpath(path, folder), text


def _log_metrics(run: ImportedRun, folder: str) -> None:
    """Merges the files of one type, which are one for each metric, by their times."""
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for directory, directories, names in os.walk(folder):
        directories.sort()
        for name in sorted(names):
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                kind, metric = split_tag(os.path.relpath(path, folder))
                by_kind.setdefault(kind, []).append((metric, path))
    for kind, files in by_kind.items():
        for start in range(0, len(files), _OPEN_FILES):
            chosen = files[start : start + _OPEN_FILES]
            merged = heapq.merge(*(_metric_points(run, metric, path) for metric, path in chosen))
            run.log_scalars((kind, name, step, time_s, value) for time_s, step, name, value in merged)


def _metric_points(run: ImportedRun, metric: str, path: str) -> Iterator[tuple[float, int, str, float]]:
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                milliseconds, value, *step = line.split()[:3]
                yield int(milliseconds) / 1000, int(step[0]) if step else 0, metric, float(value)
            except (ValueError, OverflowError):
                run.left_out += 1


def _seconds(milliseconds: object) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int) and math.isfinite(milliseconds) else None


def _plain(text: str) -> Any:
    """mlflow keeps parameters as text; numbers become numbers again."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 100 or not _NUMBER.fullmatch(text):
        return text
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


def _labels(directory: str, tags: Mapping[str, str]) -> list[str]:
    labels = ["mlflow"]
    try:
        experiment = read_yaml(os.path.join(os.path.dirname(os.path.abspath(directory)), "meta.yaml")).get("name")
        labels += [experiment] if isinstance(experiment, str) else []
    except EmError:
        pass  # one run alone, without its experiment
    return labels + [f"{key}={value}" for key, value in tags.items() if not key.startswith("mlflow.")]


def _add_artifacts(run: ImportedRun, folder: str) -> list[str]:
    """Adds the run's artifacts, if any, to an artifact that is an output of the run; returns what to say."""
    entries = [os.path.join(top, name) for top, folders, names in os.walk(folder) for name in folders + names]
    if not any(map(os.path.isfile, entries)):
        return []
    if any(map(os.path.islink, entries)):  # they could lead to files that the store never had
        return ["artifacts were left out: there are symbolic links among them"]
    from t9k.em.artifact import create_artifact

    artifact = create_artifact(run.name, labels=["mlflow"])
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        (artifact.add_dir if os.path.isdir(path) else artifact.add_file)(path, name)
    mark = {"type": "Artifact", "name": artifact.alternative_name, "local": artifact.local}
    run.metadata["associations"] = {"inputs": [], "outputs": [mark]}
    return []

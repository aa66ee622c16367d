"""mlflow's runs as ours: of its file store (`mlruns/`) or its SQLite database (`mlflow.db`), read without mlflow."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from t9k.em.errors import InvalidInputError
from t9k.em.runs.imported import ImportedRun, Outcome, iso_time
from t9k.em.runs.mlflow_database import database_runs
from t9k.em.runs.mlflow_files import file_runs
from t9k.em.runs.mlflow_run import MlflowRun, Scalar

_DATABASE = "mlflow.db"
_STATES = {"FINISHED": "Complete", "FAILED": "Failed", "KILLED": "Failed", "RUNNING": "Crashed", "SCHEDULED": "Crashed"}
"""A run that has not finished there will not do so here."""

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WORDS = {"True": True, "False": False, "None": None}


def import_mlflow(folder: str, parent: str) -> Iterator[Outcome]:
    """Imports all runs of a directory and yields each when it is there.

    Args:
        folder: A file store, one of its experiments or runs, or the directory of a database.
        parent: Where the runs go.

    Raises:
        InvalidInputError: There are no runs.
    """
    database = os.path.join(folder, _DATABASE)
    is_empty = True
    for run in database_runs(database) if os.path.isfile(database) else file_runs(folder):
        is_empty = False
        yield _import_run(run, parent)
    if is_empty:
        raise InvalidInputError(
            f"there are no runs of mlflow in {folder}", hint=f"name an mlruns/, or where {_DATABASE} is"
        )


def _import_run(source: MlflowRun, parent: str) -> Outcome:
    run = ImportedRun(parent, source.name, f"mlflow:{source.run_id}", source.started_s)
    if run.is_there():
        return Outcome(run.path, False)
    with run:
        run.hparams = {key: _plain(value) for key, value in source.params.items()}
        unread: list[None] = []
        run.log_scalars(_readable(source.scalars, lambda: unread.append(None)))
        run.metadata["status"] = _STATES.get(source.status, "Complete")
        if source.ended_s is not None:
            run.metadata["end_timestamp"] = iso_time(source.ended_s)
        run.metadata["description"] = source.tags.get("mlflow.note.content", "")
        labels = [f"{key}={value}" for key, value in source.tags.items() if not key.startswith("mlflow.")]
        run.metadata["labels"] = ["mlflow", *filter(None, [source.experiment]), *labels]
        if commit := source.tags.get("mlflow.source.git.commit"):
            run.git["commit"] = commit
        origin = {"tool": "mlflow", "run_id": source.run_id, "path": os.path.abspath(source.source)}
        run.platform["imported_from"] = origin
        notes = _add_artifacts(run, source.artifacts)
    if lost := run.left_out + len(unread):
        notes.append(f"{lost} values were left out")
    return Outcome(run.path, True, notes)


def _readable(scalars: Iterator[Scalar | None], count: Callable[[], object]) -> Iterator[Scalar]:
    for scalar in scalars:
        if scalar is None:
            count()
        else:
            yield scalar


def _plain(text: str) -> Any:
    """mlflow keeps parameters as text; numbers become numbers again."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) > 100 or not _NUMBER.fullmatch(text):
        return text
    return int(text) if text.lstrip("+-").isdecimal() else float(text)


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

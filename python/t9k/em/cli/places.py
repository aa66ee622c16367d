"""Which run or artifact a command line names."""

from __future__ import annotations

import os
import re

from t9k.em.artifact import METADATA, artifact_parent_dir, store_dir
from t9k.em.errors import InvalidInputError, NotFoundError
from t9k.em.runs.record import RunRecord, find_records, read_record, run_parent_dir

_RUN_FILE = "metadata.yaml"
_SUFFIX = re.compile(r"_\d{6}_\d{6}_[a-z0-9]{6}$")
_MAX_LISTED = 5


def run_record(run: str) -> RunRecord:
    """Returns the run in a directory, of an alternative name, of a name, or of the beginning of one.

    Raises:
        NotFoundError: There is none.
        InvalidInputError: Several runs are named so.
    """
    path = _find(run, run_parent_dir(), _RUN_FILE, "runs")
    if path is None:
        raise NotFoundError(f"there is no run {run!r} in {run_parent_dir()}", hint="em runs lists them")
    return read_record(path)


def newest_run() -> RunRecord:
    """Returns the run that started last, a running one before all others.

    Raises:
        NotFoundError: There are no runs.
    """
    records, _ = find_records(run_parent_dir())
    for record in [*(record for record in records if record.status == "Running"), *records]:
        return record
    raise NotFoundError(f"there are no runs in {run_parent_dir()}")


def artifact_dir(artifact: str) -> str:
    """Returns the directory of an artifact named as a run is in `run_record`; the text itself if there is none.

    Raises:
        InvalidInputError: Several artifacts are named so.
    """
    return _find(artifact, artifact_parent_dir(), METADATA, "artifacts") or artifact


def existing_store_dir() -> str:
    """Returns the directory of the store.

    Raises:
        NotFoundError: There is none; who only looks makes none.
    """
    store = store_dir()
    if not os.path.isdir(store):
        raise NotFoundError(f"there is no store {store}", hint="go to the directory of .em, or set EM_STORE_DIR")
    return store


def artifact_dirs() -> list[str]:
    """Returns the directories of all artifacts in the parent directory, sorted."""
    parent = artifact_parent_dir()
    found = (os.path.join(parent, name) for name in (sorted(os.listdir(parent)) if os.path.isdir(parent) else []))
    # One that is being loaded appears under its own name when it is whole.
    return [path for path in found if not os.path.basename(path).startswith(".tmp-") and _is_artifact(path)]


def _is_artifact(path: str) -> bool:
    """Also what cannot be looked into, so that who reads it says why."""
    try:
        os.stat(os.path.join(path, METADATA))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _find(name: str, parent: str, file: str, noun: str) -> str | None:
    for path in (name, os.path.join(parent, name)):
        if os.path.isfile(os.path.join(path, file)):
            return path
    there = [entry for entry in (sorted(os.listdir(parent)) if os.path.isdir(parent) else []) if _SUFFIX.search(entry)]
    found = [entry for entry in there if _SUFFIX.sub("", entry) == name]
    found = found or [entry for entry in there if name and entry.startswith(name)]
    if len(found) > 1:
        listed = ", ".join(found[-_MAX_LISTED:])
        more = f", and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
        raise InvalidInputError(f"{len(found)} {noun} are named {name!r}: {listed}{more}", hint="use more of the name")
    return os.path.join(parent, found[0]) if found else None

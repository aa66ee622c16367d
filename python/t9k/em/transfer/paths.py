"""`em.upload`: one run, one artifact, or all that lie in a directory, several at once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from t9k.em.errors import EmError, NotFoundError
from t9k.em.run_files import path_text

if TYPE_CHECKING:
    from t9k.em.client.placement import Target
    from t9k.em.client.session import Session
    from t9k.em.transfer.progress import Report

AT_ONCE = 3
"""Runs and artifacts of one directory that are uploaded at the same time."""


@dataclass(frozen=True)
class Done:
    """What became of one local directory.

    Attributes:
        local: The directory.
        path: On the server; empty after an error.
        is_created: False if the name was taken and it was skipped.
        report: What was sent.
        error: Why it failed, or None.
    """

    local: str
    path: str = ""
    is_created: bool = False
    report: Report | None = None
    error: EmError | None = None


def upload(
    path: str | os.PathLike[str], folder: str = "default", make_folder: bool = False, conflict_strategy: str = "new"
) -> None:
    """Uploads local Runs or Artifacts.

    Args:
        path: Local directory of a Run or Artifact, or a parent directory that
            contains some: of those several are uploaded at once, and one that
            fails does not stop the others.
        folder: Path of the Folder they go to; without a leading ``/`` it is
            below ``/<current-user>/``.
        make_folder: Whether to make the Folder and its parents as needed.
        conflict_strategy: What to do with a taken name: ``'skip'``,
            ``'error'``, ``'new'`` (the alternative name) or ``'replace'``.

    Raises:
        InvalidInputError: There is no such strategy.
        NotFoundError: There is nothing at the path.
        AuthError: Nobody is logged in.
        EmError: What stopped the only one; of several, how many failed and
            why the first did.

    Example:
        >>> em.upload(".em/runs", folder="mnist", make_folder=True)  # doctest: +SKIP
    """
    from t9k.em.client.connection import connected
    from t9k.em.client.placement import Target

    target = Target(folder, make_folder, conflict_strategy)
    directories = find_directories(path_text(path))
    done = upload_directories(connected(), directories, target)
    failed = [one for one in done if one.error is not None]
    if len(done) > 1:
        _log_summary(done)
    if failed:
        first = failed[0].error
        assert first is not None
        if len(done) == 1:
            raise first
        raise type(first)(f"{len(failed)} of {len(done)} uploads failed, the first: {failed[0].local}: {first}")


def find_directories(path: str) -> list[str]:
    """The directory itself if it is a run or an artifact, else those in it that are, sorted.

    Raises:
        NotFoundError: There is neither.
    """
    if not os.path.isdir(path):
        raise NotFoundError(f"there is no directory {path!r}")
    if _kind(path):
        return [path]
    found = [entry.path for entry in os.scandir(path) if entry.is_dir() and _kind(entry.path)]
    if not found:
        raise NotFoundError(f"there is no run and no artifact at {path!r}, nor directly below it")
    return sorted(found)


def _kind(path: str) -> str:
    if os.path.isfile(os.path.join(path, ".artifact", "metadata.json")):
        return "artifact"
    return "run" if os.path.isfile(os.path.join(path, "metadata.yaml")) else ""


def upload_directories(session: Session, directories: list[str], target: Target) -> list[Done]:
    """Uploads each, `AT_ONCE` at a time; the answers are in the order of the directories."""
    from concurrent.futures import ThreadPoolExecutor

    if len(directories) == 1:
        return [_upload_one(session, directories[0], target)]
    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="em-upload-many") as threads:
        return list(threads.map(lambda directory: _upload_one(session, directory, target), directories))


def weigh_directories(session: Session, directories: list[str], target: Target) -> list[Done]:
    """What an upload of each would send and become, one after the other; nothing is sent."""
    from t9k.em.transfer.dry_run import DrySession

    dry = DrySession.of(session)
    try:
        return [_upload_one(dry, directory, target) for directory in directories]
    finally:
        dry.close()


def _upload_one(session: Session, directory: str, target: Target) -> Done:
    from t9k.em.artifact import load_local
    from t9k.em.transfer.upload import upload_artifact

    try:
        if _kind(directory) == "run":
            from t9k.em.run import load_run
            from t9k.em.sync.send import upload_run, weigh_run

            if session.is_dry:
                sent = weigh_run(session, directory, target)
            else:
                sent = upload_run(session, load_run(directory), target)
        else:
            sent = upload_artifact(session, load_local(directory), target)
    except EmError as error:
        return Done(directory, error=error)
    return Done(directory, sent.path, sent.is_created, sent.report)


def _log_summary(done: list[Done]) -> None:
    import logging

    logger = logging.getLogger("t9k.em")
    for one in done:
        if one.error is not None:
            logger.error("upload of %s failed: %s", one.local, one.error)
    created = sum(one.is_created for one in done)
    failed = sum(one.error is not None for one in done)
    logger.info("%d uploaded, %d skipped, %d failed", created, len(done) - created - failed, failed)

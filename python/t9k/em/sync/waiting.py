"""What of the local runs still waits to be sent."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from t9k.em.errors import EmError
from t9k.em.progress import Progress, size_text
from t9k.em.run_files import read_yaml
from t9k.em.sync import state as states
from t9k.em.sync.go_back import is_restored

if TYPE_CHECKING:
    from t9k.em.client.session import Session


class SyncProgress(Progress):
    """Shows how much of a run's metrics and log has been sent since it began."""

    def __init__(self, run_dir: str) -> None:
        """Nothing has."""
        super().__init__("upload")
        self._run_dir = run_dir
        self._total_bytes = 0

    def show(self, state: states.SyncState) -> None:
        """Shows what has been acknowledged by now; a run that goes on may have written more."""
        left = unsent_bytes(self._run_dir, state)
        self._total_bytes = max(self._total_bytes, left)
        self(0, self._total_bytes - left, 1, self._total_bytes)

    def _line(self, files: int, size_bytes: int, total_files: int, total_bytes: int) -> str:
        name = os.path.basename(self._run_dir)
        return f"{size_text(size_bytes)} of {size_text(total_bytes)} of metrics and log of {name}"


def unsent_runs(parent_dir: str, session: Session | None = None) -> list[str]:
    """Directories of runs below a parent that wait to be sent, oldest first; one whose state is unreadable too.

    Args:
        parent_dir: Of the runs.
        session: A server that has answered; runs that it had taken before it was restored from a backup wait too.
    """
    found = []
    try:
        with os.scandir(parent_dir) as entries:
            for entry in entries:
                path = os.path.join(entry.path, states.FILE)
                if os.path.exists(path) and not _is_done(entry.path, session):
                    found.append((os.path.getmtime(path), entry.path))
    except OSError:
        return []
    return [path for _, path in sorted(found)]


def unsent_bytes(run_dir: str, state: states.SyncState) -> int:
    """Bytes of metrics and log that the server has not acknowledged."""
    if state.is_done or state.is_skipped:
        return 0
    total = max(0, _size(os.path.join(run_dir, "stdout.log")) - state.log_offset)
    folder = os.path.join(run_dir, "metrics")
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        sent = state.metrics.get(name.removesuffix(".yaml"))
        total += max(0, _size(os.path.join(folder, name)) - (sent.offset if sent else 0))
    return total


def unsent_text(run_dir: str, state: states.SyncState) -> str:
    """What of a run the server has not acknowledged, for people."""
    left_bytes = unsent_bytes(run_dir, state)
    left = [f"{size_text(left_bytes)} of metrics and log"] if left_bytes else []
    try:
        outputs = read_yaml(os.path.join(run_dir, "metadata.yaml")).get("associations") or {}
        marked = {mark.get("local") for side in ("inputs", "outputs") for mark in outputs.get(side) or []}
    except EmError:
        marked = set()
    if waiting := len(marked - {None, *state.artifacts}):
        left.append(f"{waiting} artifact{'s' if waiting > 1 else ''}")
    return " and ".join(left) or "the last words"


def _is_done(run_dir: str, session: Session | None) -> bool:
    try:
        state = states.load(run_dir)
    except EmError:
        return False
    if state is None or state.is_skipped:
        return True
    is_lost = session is not None and state.server == session.url and is_restored(session, state)
    return state.is_done and not is_lost


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0

"""Back to what a server has that was restored from a backup: it may lack what it had acknowledged.

The directory has everything, so what is lost there is sent again from here. Requests rely on the history that was
looked at (`Session.history`), so one that was under way meanwhile, or another restored backup, cannot come between.
"""

from __future__ import annotations

import os
from dataclasses import replace

from t9k.em.client import nodes, runs
from t9k.em.client.session import Session
from t9k.em.errors import NotFoundError
from t9k.em.metrics import decode_lines
from t9k.em.points import Points
from t9k.em.sync.batches import READ_BYTES
from t9k.em.sync.state import Sent, SyncState


def is_restored(session: Session, state: SyncState) -> bool:
    """Whether the server is not what it was when it acknowledged this."""
    return bool(state.history and session.seen_history) and state.history != session.seen_history


def go_back(session: Session, run_dir: str, state: SyncState, what: str) -> None:
    """Takes back from the state what the server lacks; saves nothing.

    Args:
        session: From here on its requests rely on the server as it is now.
        run_dir: Directory of the run.
        state: Of the run.
        what: What cannot be done if this fails.

    Raises:
        EmError: The server does not tell.
    """
    session.history = session.seen_history
    try:
        log_bytes = int(runs.get(session, state.node_id, what).get("log_bytes") or 0)
        stored = runs.stored_of_session(session, state.node_id, state.session, what)
    except NotFoundError:  # it is younger than the backup: it is made again, under the same client id
        state.node_id = state.path = ""
        log_bytes, stored = 0, {}
    state.log_offset = min(state.log_offset, log_bytes)
    for kind, sent in state.metrics.items():
        sequence, points = stored.get(kind, (0, 0))
        if sequence < sent.sequence:
            path = os.path.join(run_dir, "metrics", f"{kind}.yaml")
            state.metrics[kind] = Sent(_end_of_points(path, points), sequence)
    state.parts.clear()
    state.artifacts = {
        local: replace(sent, digest="")  # which of its versions is there is found out where it is sent
        for local, sent in state.artifacts.items()
        if nodes.is_there(session, sent.node_id)
    }
    state.is_done = False
    state.history = session.history


def _end_of_points(path: str, points: int) -> int:
    """Where in a metrics file the line ends that has the last of so many points."""
    offset = 0
    with open(path, "rb") as file:
        while points > 0 and (data := file.read(READ_BYTES) + file.readline()):
            if (count := _count(data)) > points:
                lines = data.splitlines(keepends=True)
                data = b""
                while points > 0:
                    line = lines.pop(0)
                    points -= _count(line)
                    data += line
                return offset + len(data)
            points -= count
            offset += len(data)
    return offset


def _count(data: bytes) -> int:
    found = Points()
    decode_lines(data, found)
    return len(found)

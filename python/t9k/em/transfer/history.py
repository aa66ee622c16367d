"""The remote history of an artifact: where it was sent to and came from."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from t9k.em.client.session import Session


def entry(action: str, session: Session, path: str, digest: str = "") -> dict[str, str]:
    """One line of a history.

    Args:
        action: `upload` or `download`.
        session: The server.
        path: Of the node there.
        digest: Of the manifest, for an artifact.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = {"action": action, "host": session.url, "path": path, "timestamp": now}
    return {**found, "digest": digest} if digest else found

"""Where bytes come from, asked of the server: artifacts that hold them, and the runs that made or read these."""

from __future__ import annotations

from dataclasses import dataclass

from t9k.em import _engine
from t9k.em.client import artifacts, nodes
from t9k.em.client.session import Session
from t9k.em.errors import translated

MOST = 20
"""Artifacts of one object that are told of: each costs three requests, and of what everybody has there is no end."""


@dataclass(frozen=True)
class ServerOrigin:
    """An artifact of the server that holds some bytes.

    Attributes:
        artifact: Its path there, with the number of its newest version that holds them.
        paths: Paths of the bytes in it, sorted.
        marks: Paths of the runs that marked it, each behind ``input`` or ``output``.
    """

    artifact: str
    paths: list[str]
    marks: list[tuple[str, str]]


def find_on_server(session: Session, digest: str) -> tuple[list[ServerOrigin], bool]:
    """Looks for an object in the artifacts that the user may see, the oldest first.

    Args:
        session: Of the server.
        digest: Of the object, in hex.

    Returns:
        At most `MOST` artifacts, and whether there may be more.

    Raises:
        TransferError: The server cannot be reached.
    """
    versions, is_truncated = artifacts.holders(session, digest, MOST)
    found = []
    for version in versions:
        with translated():
            entries = _engine.parse_manifest(artifacts.manifest(session, version))
        marks = [(side, run.path) for side, run in nodes.runs_of(session, version.node_id, version.path)]
        paths = sorted(path for path, _, _, known, *_ in entries if known == digest)
        found.append(ServerOrigin(f"{version.path}:{version.number}", paths, marks))
    return found, is_truncated

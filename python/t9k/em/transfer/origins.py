"""Where bytes come from, asked of the server: artifacts that hold them, and the runs that made or read these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from t9k.em import _engine
from t9k.em.client import artifacts, nodes
from t9k.em.client.session import Session
from t9k.em.errors import NotFoundError, translated

MOST = 20
"""Artifacts of one object that are told of: each costs three requests, and of what everybody has there is no end."""


@dataclass(frozen=True)
class ServerOrigin:
    """An artifact of the server that holds some bytes.

    Attributes:
        artifact: Its path there, with the number of its newest version that holds them.
        paths: Paths of the bytes in it, sorted.
        marks: Paths of the runs that marked it, each behind ``input`` or ``output``. Lineage there knows no versions:
            these runs may have marked another one.
    """

    artifact: str
    paths: list[str]
    marks: list[tuple[str, str]]


def find_on_server(session: Session, digests: Collection[str]) -> Iterator[tuple[str, tuple[list[ServerOrigin], bool]]]:
    """Looks for objects in the artifacts that the user may see, the oldest first.

    A version of an artifact is asked for once, however many of the objects it holds. One that is deleted or no longer
    shared while this goes on is passed over.

    Args:
        session: Of the server.
        digests: Of the objects, in hex.

    Yields:
        Each digest, with at most `MOST` artifacts, and whether there may be more.

    Raises:
        TransferError: The server cannot be reached.
        IntegrityError: A manifest is damaged.
    """
    wanted = frozenset(digests)
    seen: dict[tuple[str, int], dict[str, ServerOrigin]] = {}
    for digest in digests:
        holders, is_truncated = artifacts.holders(session, digest, MOST)
        for holder in holders:
            if holder not in seen:
                seen[holder] = _origins(session, *holder, wanted)
        yield digest, ([seen[holder][digest] for holder in holders if digest in seen[holder]], is_truncated)


def _origins(session: Session, node: str, number: int, digests: frozenset[str]) -> dict[str, ServerOrigin]:
    """A version of an artifact, by those of some objects that it holds; nothing if it is there no more."""
    try:
        version = artifacts.version(session, node, number)
        with translated():
            entries = _engine.parse_manifest(artifacts.manifest(session, version))
        marks = [(side, run.path) for side, run in nodes.runs_of(session, node, version.path)]
    except NotFoundError:
        return {}
    paths: dict[str, list[str]] = defaultdict(list)
    for path, _, _, digest, *_ in entries:
        if digest in digests:
            paths[digest].append(path)
    return {digest: ServerOrigin(f"{version.path}:{number}", sorted(held), marks) for digest, held in paths.items()}

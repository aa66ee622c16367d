"""Chunks of a store's objects, whole: what the engine hands out in parts."""

from __future__ import annotations

from t9k.em import _engine

Piece = tuple[int, bytes, int]
"""Offset, digest, length."""


def pieces_of(store: str, digest: bytes) -> list[Piece]:
    """The chunks of an object, as `PackPlan` takes them."""
    table = _engine.ChunkTable(store, digest)
    digests, lengths = table.chunks(0, len(table))
    pieces, offset = [], 0
    for number, length in enumerate(memoryview(lengths).cast("I")):
        pieces.append((offset, digests[32 * number : 32 * number + 32], length))
        offset += length
    return pieces


def table_of(store: str, digest: bytes) -> bytes | None:
    """The bytes of an object's chunk table, if it has one."""
    table = _engine.ChunkTable(store, digest)
    return table.read(0, table.table_bytes) or None

"""SQL of `aistore check`: what must hold between rows, and what blobs there should be."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db.tables.artifacts import (
    BAD,
    CHECKING,
    COMPLETE,
    chunks,
    lease_packs,
    manifest_objects,
    manifests,
    object_chunks,
    objects,
    packs,
)


def packs_from(connection: Connection, after: int, limit: int) -> list[Row[Any]]:
    """Packs by number, from the one behind `after` on."""
    return list(connection.execute(sa.select(packs).where(packs.c.id > after).order_by(packs.c.id).limit(limit)))


def manifests_from(connection: Connection, after: int, limit: int) -> list[Row[Any]]:
    """Manifests by number, from the one behind `after` on."""
    query = sa.select(manifests).where(manifests.c.id > after).order_by(manifests.c.id).limit(limit)
    return list(connection.execute(query))


def chunks_in(connection: Connection, pack_id: int) -> list[Row[Any]]:
    """Chunks that the database says are in a pack."""
    return list(connection.execute(sa.select(chunks).where(chunks.c.pack_id == pack_id)))


def bad_objects(connection: Connection) -> list[bytes]:
    """Digests of objects whose chunks are not their bytes."""
    return [
        bytes(name) for name in connection.execute(sa.select(objects.c.digest).where(objects.c.state == BAD)).scalars()
    ]


def uneven_objects(connection: Connection, first: int, behind: int) -> list[bytes]:
    """Digests of objects in a range of numbers whose chunks have gaps, or are not as long as they."""
    query = (
        sa.select(objects.c.digest)
        .outerjoin(object_chunks, object_chunks.c.object_id == objects.c.id)
        .outerjoin(chunks, chunks.c.id == object_chunks.c.chunk_id)
        .where(objects.c.id >= first, objects.c.id < behind)
        .group_by(objects.c.id, objects.c.digest, objects.c.size_bytes)
        .having(
            (sa.func.coalesce(sa.func.sum(chunks.c.raw_bytes), 0) != objects.c.size_bytes)
            | (sa.func.coalesce(sa.func.max(object_chunks.c.position) + 1, 0) != sa.func.count(chunks.c.id))
        )
    )
    return [bytes(name) for name in connection.execute(query).scalars()]


def miscounted_manifest(connection: Connection, manifest_id: int) -> bool:
    """Whether a manifest says something else of its objects than they do."""

    def count(state: str) -> sa.ColumnElement[int]:
        return sa.func.coalesce(sa.func.sum(sa.case((objects.c.state == state, 1), else_=0)), 0)

    query = (
        sa.select(count(COMPLETE), count(CHECKING), count(BAD), sa.func.coalesce(sa.func.sum(objects.c.size_bytes), 0))
        .join_from(manifest_objects, objects, objects.c.id == manifest_objects.c.object_id)
        .where(manifest_objects.c.manifest_id == manifest_id)
    )
    complete, checking, bad, size_bytes = connection.execute(query).one()
    said = connection.execute(sa.select(manifests).where(manifests.c.id == manifest_id)).first()
    if said is None or said.condemned_us is not None:
        return False
    return (complete + checking + bad, checking, bad, int(size_bytes)) != (
        said.object_count,
        said.checking_count,
        said.bad_count,
        said.size_bytes,
    )


def reached_condemned_packs(connection: Connection) -> list[bytes]:
    """Digests of packs that are condemned although an object or a lease has something of them."""
    used = sa.select(sa.literal(1)).select_from(chunks.join(object_chunks, object_chunks.c.chunk_id == chunks.c.id))
    is_reached = (
        used.where(chunks.c.pack_id == packs.c.id).exists()
        | sa.select(sa.literal(1)).where(lease_packs.c.pack_id == packs.c.id).exists()
    )
    query = sa.select(packs.c.digest).where(packs.c.condemned_us.is_not(None), is_reached)
    return [bytes(name) for name in connection.execute(query).scalars()]

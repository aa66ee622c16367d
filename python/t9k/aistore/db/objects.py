"""SQL of objects: what their chunks are, and whether they were hashed whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db import bulk
from t9k.aistore.db.tables.artifacts import (
    BAD,
    CHECKING,
    COMPLETE,
    chunk_tables,
    chunks,
    manifest_objects,
    manifests,
    object_chunks,
    objects,
    packs,
)

ONE_CHUNK = b""
"""Instead of the hash of a chunk table: the object is one chunk, or empty."""


def complete(connection: Connection, domain: int, digests: Sequence[bytes]) -> Iterator[Any]:
    """Those of these objects that were hashed whole: `position`, `id`, `size_bytes`, `is_reached` (by a manifest)."""
    for start, part in bulk.batches(digests):
        batch = bulk.table_of(connection, digest=(sa.LargeBinary, part))
        yield from connection.execute(_complete(batch, domain, start))


def _complete(batch: sa.Subquery, domain: int, start: int) -> sa.Select[Any]:
    is_it = _object_of(batch, domain) & (objects.c.state == COMPLETE)
    is_reached = sa.select(sa.literal(1)).where(manifest_objects.c.object_id == objects.c.id).exists()
    columns = [
        (batch.c.position + start).label("position"),
        objects.c.id,
        objects.c.size_bytes,
        is_reached.label("is_reached"),
    ]
    return sa.select(*columns).select_from(bulk.look_up(batch, (objects, is_it)))


def _object_of(batch: sa.Subquery, domain: int) -> sa.ColumnElement[bool]:
    return (objects.c.digest == batch.c.digest) & (objects.c.domain_id == domain)


def vouch(connection: Connection, object_ids: Sequence[int], now_us: int) -> set[int]:
    """Notes that `plan` called these known; answers those that are still there."""
    alive: set[int] = set()
    for start in range(0, len(object_ids), bulk.BATCH_ROWS):
        batch = bulk.table_of(connection, id=(sa.BigInteger, object_ids[start : start + bulk.BATCH_ROWS]))
        statement = sa.update(objects).where(objects.c.id.in_(sa.select(batch.c.id))).values(asked_us=now_us)
        alive.update(connection.execute(statement.returning(objects.c.id)).scalars())
    return alive


def put_single(
    connection: Connection, domain: int, digests: Sequence[bytes], sizes: Sequence[int], now_us: int
) -> None:
    """Adds those of these objects that are one chunk which is there: its digest was checked, so theirs is."""
    for start, part in bulk.batches(digests):
        batch = bulk.table_of(
            connection,
            digest=(sa.LargeBinary, part),
            size_bytes=(sa.BigInteger, sizes[start : start + len(part)]),
        )
        is_it = (chunks.c.digest == batch.c.digest) & (chunks.c.domain_id == domain)
        rows = (
            sa.select(
                sa.literal(domain),
                batch.c.digest,
                sa.literal(ONE_CHUNK, sa.LargeBinary),
                batch.c.size_bytes,
                sa.literal(COMPLETE),
                sa.literal(now_us, sa.BigInteger),
            )
            .select_from(bulk.look_up(batch, (chunks, is_it), (packs, packs.c.id == chunks.c.pack_id)))
            .where(packs.c.condemned_us.is_(None), chunks.c.raw_bytes == batch.c.size_bytes)
        )
        columns = ["domain_id", "digest", "table_hash", "size_bytes", "state", "asked_us"]
        connection.execute(bulk.insert(connection, objects).from_select(columns, rows).on_conflict_do_nothing())
        links = (
            sa.select(objects.c.id, sa.literal(0), chunks.c.id)
            .select_from(bulk.look_up(batch, (objects, _object_of(batch, domain)), (chunks, is_it)))
            .where(objects.c.table_hash == ONE_CHUNK)
        )
        names = ["object_id", "position", "chunk_id"]
        connection.execute(bulk.insert(connection, object_chunks).from_select(names, links).on_conflict_do_nothing())


def put_empty(connection: Connection, domain: int, digest: bytes, now_us: int) -> None:
    """Adds the object without bytes, if it is not there."""
    row = {
        "domain_id": domain,
        "digest": digest,
        "table_hash": ONE_CHUNK,
        "size_bytes": 0,
        "state": COMPLETE,
        "asked_us": now_us,
    }
    connection.execute(bulk.insert(connection, objects).values(row).on_conflict_do_nothing())


def by_table(connection: Connection, domain: int, digest: bytes, table_hash: bytes) -> Row[Any] | None:
    """The object of this digest that is cut as this table says."""
    query = sa.select(objects).where(
        objects.c.domain_id == domain, objects.c.digest == digest, objects.c.table_hash == table_hash
    )
    return connection.execute(query).first()


def put_described(
    connection: Connection, domain: int, digest: bytes, size_bytes: int, table: bytes, table_hash: bytes, now_us: int
) -> int:
    """Adds an object that is still to be hashed, without its chunks: see `put_chunks_of`. Answers its number."""
    row = {
        "domain_id": domain,
        "digest": digest,
        "table_hash": table_hash,
        "size_bytes": size_bytes,
        "state": CHECKING,
        "asked_us": now_us,
    }
    number: int = connection.execute(sa.insert(objects).values(row).returning(objects.c.id)).scalar_one()
    connection.execute(sa.insert(chunk_tables).values(object_id=number, bytes=table))
    return number


def put_chunks_of(
    connection: Connection, domain: int, object_id: int, digests: Sequence[bytes], lengths: Sequence[int]
) -> list[bytes]:
    """Notes the chunks of an object, in order; answers those that are not there, or not of this length."""
    missing: list[bytes] = []
    for start, part in bulk.batches(digests):
        batch = bulk.table_of(
            connection,
            digest=(sa.LargeBinary, part),
            raw_bytes=(sa.BigInteger, lengths[start : start + len(part)]),
        )
        is_there = (
            (chunks.c.digest == batch.c.digest)
            & (chunks.c.domain_id == domain)
            & (chunks.c.raw_bytes == batch.c.raw_bytes)
        )
        is_alive = (packs.c.id == chunks.c.pack_id) & packs.c.condemned_us.is_(None)
        rows = sa.select(sa.literal(object_id, sa.BigInteger), batch.c.position + start, chunks.c.id).select_from(
            bulk.look_up(batch, (chunks, is_there), (packs, is_alive))
        )
        columns = ["object_id", "position", "chunk_id"]
        stored = connection.execute(sa.insert(object_chunks).from_select(columns, rows)).rowcount
        if stored != len(part):
            there = sa.select(sa.literal(1)).select_from(chunks.join(packs, is_alive)).where(is_there).exists()
            missing.extend(connection.execute(sa.select(batch.c.digest).where(~there)).scalars())
    return missing


def claim(connection: Connection, now_us: int, stale_us: int) -> Row[Any] | None:
    """Takes an object that waits to be hashed and that nobody has claimed since `stale_us`."""
    query = sa.select(objects).where(objects.c.state == CHECKING, objects.c.claimed_us < stale_us)
    found = connection.execute(query.order_by(objects.c.claimed_us).limit(1)).first()
    if found is not None:
        connection.execute(sa.update(objects).where(objects.c.id == found.id).values(claimed_us=now_us))
    return found


def claim_again(connection: Connection, object_id: int, now_us: int) -> None:
    """Says that the work on a claimed object goes on."""
    connection.execute(sa.update(objects).where(objects.c.id == object_id).values(claimed_us=now_us))


def places(connection: Connection, object_id: int, start: int, limit: int) -> list[Row[Any]]:
    """Where an object's chunks are, in order from number `start` on: `blob_key`, `offset`, `length`."""
    query = (
        sa.select(packs.c.blob_key, chunks.c.offset, chunks.c.length)
        .join_from(object_chunks, chunks, chunks.c.id == object_chunks.c.chunk_id)
        .join(packs, packs.c.id == chunks.c.pack_id)
        .where(object_chunks.c.object_id == object_id, object_chunks.c.position >= start)
        .order_by(object_chunks.c.position)
        .limit(limit)
    )
    return list(connection.execute(query))


def judge(connection: Connection, object_id: int, *, is_right: bool) -> None:
    """Notes what hashing an object found; manifests that name it count it."""
    statement = sa.update(objects).where(objects.c.id == object_id, objects.c.state == CHECKING)
    if connection.execute(statement.values(state=COMPLETE if is_right else BAD)).rowcount == 0:
        return  # another process was as fast
    naming = sa.select(manifest_objects.c.manifest_id).where(manifest_objects.c.object_id == object_id)
    counts: dict[str, Any] = {"checking_count": manifests.c.checking_count - 1}
    if not is_right:
        counts["bad_count"] = manifests.c.bad_count + 1
    connection.execute(sa.update(manifests).where(manifests.c.id.in_(naming)).values(counts))


def of_manifest(connection: Connection, domain: int, manifest_id: int, digests: Sequence[bytes]) -> Iterator[Any]:
    """Those of these objects that a manifest names: `position`, `id`, `size_bytes`, `table_bytes`."""
    for start, part in bulk.batches(digests):
        batch = bulk.table_of(connection, digest=(sa.LargeBinary, part))
        is_named = (manifest_objects.c.manifest_id == manifest_id) & (manifest_objects.c.object_id == objects.c.id)
        query = (
            sa.select(
                (batch.c.position + start).label("position"),
                objects.c.id,
                objects.c.size_bytes,
                sa.func.coalesce(sa.func.length(chunk_tables.c.bytes), 0).label("table_bytes"),
            )
            .select_from(bulk.look_up(batch, (objects, _object_of(batch, domain)), (manifest_objects, is_named)))
            .outerjoin(chunk_tables, chunk_tables.c.object_id == objects.c.id)
        )
        yield from connection.execute(query)


def table_of(connection: Connection, object_id: int) -> bytes:
    """The bytes of an object's chunk table; empty without one."""
    query = sa.select(chunk_tables.c.bytes).where(chunk_tables.c.object_id == object_id)
    return bytes(connection.execute(query).scalar() or b"")

"""SQL of the compaction of packs: which ones are mostly unused, and how their chunks move to another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db import bulk
from t9k.aistore.db.garbage import is_used
from t9k.aistore.db.packs import HEAD_BYTES, Record, put_chunks
from t9k.aistore.db.tables.artifacts import chunks, lease_packs, moved_records, packs

FRAME_BYTES = 32
"""Of a pack without chunks (`docs/formats.md`)."""


def bytes_of(places: Iterable[Row[Any]]) -> int:
    """Of a pack with these records only."""
    return FRAME_BYTES + sum(int(place.length) + HEAD_BYTES for place in places)


def _live(first: int, behind: int, asked_before_us: int | None = None) -> sa.Subquery:
    """Packs with a chunk that an object has: `id`, `live_bytes` (of a pack with these chunks only), and more."""
    live_bytes = sa.cast(sa.func.sum(chunks.c.length + HEAD_BYTES) + FRAME_BYTES, sa.BigInteger)
    return (
        sa.select(
            packs.c.id,
            packs.c.domain_id,
            packs.c.digest,
            packs.c.size_bytes,
            live_bytes.label("live_bytes"),
            sa.cast(sa.func.sum(chunks.c.raw_bytes), sa.BigInteger).label("raw_bytes"),
            sa.func.count().label("count"),
        )
        .join_from(packs, chunks, chunks.c.pack_id == packs.c.id)
        .where(packs.c.id >= first, packs.c.id < behind, packs.c.condemned_us.is_(None), is_used(asked_before_us))
        .group_by(packs.c.id, packs.c.domain_id, packs.c.digest, packs.c.size_bytes)
        .subquery()
    )


def sparse(
    connection: Connection, first: int, behind: int, percent: int, asked_before_us: int | None = None
) -> list[Row[Any]]:
    """Packs in a range of numbers of which less than so many percent are used: see `_live` and `garbage.is_used`."""
    live = _live(first, behind, asked_before_us)
    query = sa.select(live).where(live.c.live_bytes * 100 < live.c.size_bytes * percent).order_by(live.c.id)
    return list(connection.execute(query))


def idle(connection: Connection, first: int, behind: int) -> tuple[int, int]:
    """Bytes of packs in a range of numbers that nothing uses beside what is used, and how many such packs there are."""
    live = _live(first, behind)
    bytes_of_all = sa.func.coalesce(sa.func.sum(live.c.size_bytes - live.c.live_bytes), 0)
    query = sa.select(bytes_of_all, sa.func.count()).where(live.c.size_bytes > live.c.live_bytes)
    size_bytes, count = connection.execute(query).one()
    return int(size_bytes), int(count)


def live_places(connection: Connection, pack_id: int) -> list[Row[Any]]:
    """Where the chunks of a pack are that an object has, in its order: `blob_key`, `offset`, `length`."""
    query = (
        sa.select(packs.c.blob_key, chunks.c.offset, chunks.c.length)
        .join_from(chunks, packs, packs.c.id == chunks.c.pack_id)
        .where(chunks.c.pack_id == pack_id, is_used())
        .order_by(chunks.c.offset)
    )
    return list(connection.execute(query))


def twice_bytes(connection: Connection) -> int:
    """Bytes of records that are there twice, until the packs go from which they were copied."""
    return int(connection.execute(sa.select(sa.func.coalesce(sa.func.sum(moved_records.c.length), 0))).scalar_one())


def move(connection: Connection, domain: int, pack_id: int, records: Sequence[Record], sources: Sequence[int]) -> None:
    """Lets chunks that lie in the sources lie in another pack, which has these records.

    A chunk that has gone elsewhere meanwhile stays there. Where they were is noted for who was told so, and what keeps
    the sources keeps the pack too.
    """
    for _, digests in bulk.batches([record.digest for record in records]):
        batch = bulk.table_of(connection, digest=(sa.LargeBinary, digests))
        is_it = (chunks.c.digest == batch.c.digest) & (chunks.c.domain_id == domain)
        was = (
            sa.select(chunks.c.pack_id, chunks.c.offset, chunks.c.length, chunks.c.id)
            .select_from(bulk.look_up(batch, (chunks, is_it)))
            .where(chunks.c.pack_id.in_(sources))
        )
        names = ["pack_id", "offset", "length", "chunk_id"]
        connection.execute(bulk.insert(connection, moved_records).from_select(names, was).on_conflict_do_nothing())
    put_chunks(connection, domain, pack_id, records, sources)
    held = sa.select(lease_packs.c.lease_id, sa.literal(pack_id)).where(lease_packs.c.pack_id.in_(sources)).distinct()
    statement = bulk.insert(connection, lease_packs).from_select(["lease_id", "pack_id"], held)
    connection.execute(statement.on_conflict_do_nothing())


def moved_from(connection: Connection, pack_id: int) -> list[Row[Any]]:
    """What is noted of chunks that a pack had: `digest`, `offset`, `length`, `raw_bytes`."""
    query = sa.select(chunks.c.digest, moved_records.c.offset, moved_records.c.length, chunks.c.raw_bytes)
    joined = query.join_from(moved_records, chunks, chunks.c.id == moved_records.c.chunk_id)
    return list(connection.execute(joined.where(moved_records.c.pack_id == pack_id)))

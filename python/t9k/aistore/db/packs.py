"""SQL of packs and of the chunks in them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db import bulk
from t9k.aistore.db.tables.artifacts import chunks, manifest_objects, object_chunks, packs

_RECORD = struct.Struct("<32sQII")


class Record(NamedTuple):
    """A chunk and its place in a pack."""

    digest: bytes
    offset: int
    length: int  # of the whole record
    raw_bytes: int  # of the chunk


def records_of(rows: bytes) -> list[Record]:
    """What the engine says of a pack's records, sorted by digest, which is how the index grows best."""
    return sorted(map(Record._make, _RECORD.iter_unpack(rows)))


def by_digest(connection: Connection, domain: int, digest: bytes) -> Row[Any] | None:
    """A pack of a domain, condemned or not."""
    query = sa.select(packs).where(packs.c.domain_id == domain, packs.c.digest == digest)
    return connection.execute(query).first()


def insert(connection: Connection, domain: int, digest: bytes, blob_key: str, size_bytes: int, now_us: int) -> int:
    """Adds a pack whose bytes are stored; answers its number."""
    row = {
        "domain_id": domain,
        "digest": digest,
        "blob_key": blob_key,
        "size_bytes": size_bytes,
        "created_us": now_us,
    }
    return int(connection.execute(sa.insert(packs).values(row).returning(packs.c.id)).scalar_one())


def acquit(connection: Connection, pack_id: int, now_us: int) -> None:
    """Takes back that a pack is condemned."""
    connection.execute(sa.update(packs).where(packs.c.id == pack_id).values(condemned_us=None, created_us=now_us))


def put_chunks(connection: Connection, domain: int, pack_id: int, records: Sequence[Record]) -> None:
    """Notes where chunks are. One that is known already stays where it is, unless that is condemned."""
    columns = ["domain_id", "digest", "pack_id", "offset", "length", "raw_bytes"]
    for start in range(0, len(records), bulk.BATCH_ROWS):
        digests, offsets, lengths, raw = zip(*records[start : start + bulk.BATCH_ROWS], strict=True)
        batch = bulk.table_of(
            connection,
            digest=(sa.LargeBinary, digests),
            offset=(sa.BigInteger, offsets),
            length=(sa.BigInteger, lengths),
            raw_bytes=(sa.BigInteger, raw),
        )
        rows = sa.select(
            sa.literal(domain), batch.c.digest, sa.literal(pack_id), batch.c.offset, batch.c.length, batch.c.raw_bytes
        ).where(sa.true())  # without it SQLite takes ON CONFLICT for a join's ON
        statement = bulk.insert(connection, chunks).from_select(columns, rows)
        condemned = sa.select(packs.c.condemned_us).where(packs.c.id == sa.literal_column("chunks.pack_id"))
        statement = statement.on_conflict_do_update(
            index_elements=["domain_id", "digest"],
            set_={name: statement.excluded[name] for name in columns[2:]},
            where=condemned.scalar_subquery().is_not(None),
        )
        connection.execute(statement)


def present(connection: Connection, domain: int, digests: Sequence[bytes]) -> Iterator[Any]:
    """Index and pack of each of these chunks that is there and not condemned: `position`, `pack_id`."""
    for start, part in bulk.batches(digests):
        batch = bulk.table_of(connection, digest=(sa.LargeBinary, part))
        yield from connection.execute(_present(batch, domain, start))


def _present(batch: sa.Subquery, domain: int, start: int) -> sa.Select[Any]:
    return (
        sa.select((batch.c.position + start).label("position"), chunks.c.pack_id)
        .select_from(bulk.look_up(batch, _chunk_of(batch, domain), _PACK))
        .where(packs.c.condemned_us.is_(None))
    )


def _chunk_of(batch: sa.Subquery, domain: int) -> tuple[sa.FromClause, sa.ColumnElement[bool]]:
    return chunks, (chunks.c.digest == batch.c.digest) & (chunks.c.domain_id == domain)


_PACK = (packs, packs.c.id == chunks.c.pack_id)


def _is_of(manifest_id: int) -> sa.ColumnElement[bool]:
    """Whether an object of a manifest has the chunk."""
    uses = sa.select(sa.literal(1)).select_from(object_chunks)
    uses = uses.join(manifest_objects, manifest_objects.c.object_id == object_chunks.c.object_id)
    return uses.where(object_chunks.c.chunk_id == chunks.c.id, manifest_objects.c.manifest_id == manifest_id).exists()


def locate(connection: Connection, domain: int, manifest_id: int, digests: Sequence[bytes]) -> Iterator[Any]:
    """Where those of these chunks are that a manifest reaches: `position`, `pack`, `offset`, `length`."""
    for start, part in bulk.batches(digests):
        batch = bulk.table_of(connection, digest=(sa.LargeBinary, part))
        query = (
            sa.select(
                (batch.c.position + start).label("position"),
                packs.c.digest.label("pack"),
                chunks.c.offset,
                chunks.c.length,
            )
            .select_from(bulk.look_up(batch, _chunk_of(batch, domain), _PACK))
            .where(_is_of(manifest_id))
        )
        yield from connection.execute(query)


def spans(connection: Connection, pack_id: int, manifest_id: int, start: int, end: int) -> list[tuple[int, int]]:
    """The records of a pack that a manifest reaches and that have a byte in a range, as ranges; neighbours are one."""
    query = (
        sa.select(chunks.c.offset, chunks.c.offset + chunks.c.length)
        .where(
            chunks.c.pack_id == pack_id,
            chunks.c.offset > start - _MAX_RECORD_BYTES,
            chunks.c.offset < end,
            chunks.c.offset + chunks.c.length > start,
            _is_of(manifest_id),
        )
        .order_by(chunks.c.offset)
    )
    merged: list[tuple[int, int]] = []
    for first, behind in connection.execute(query):
        if merged and merged[-1][1] == first:
            first = merged.pop()[0]
        merged.append((first, behind))
    return merged


_MAX_RECORD_BYTES = (2 << 20) + 41
"""A chunk has at most 2 MiB, and is never stored longer."""

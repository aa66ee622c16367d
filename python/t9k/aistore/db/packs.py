"""SQL of packs and of the chunks in them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db import bulk
from t9k.aistore.db.tables.artifacts import (
    chunks,
    domains,
    doomed_blobs,
    manifest_objects,
    moved_records,
    object_chunks,
    packs,
)

HEAD_BYTES = 41
"""Of a record without its chunk; the footer has it again."""

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


def put(
    connection: Connection, domain: int, digest: bytes, blob_key: str, size_bytes: int, now_us: int
) -> tuple[int, str] | None:
    """Adds a pack whose bytes are stored, or acquits the one that is there; answers its number and the key of its blob.

    None if the blob is doomed, which adds nothing.
    """
    row = {"domain_id": domain, "digest": digest, "blob_key": blob_key, "size_bytes": size_bytes, "created_us": now_us}
    given = {f"new_{name}": value for name, value in row.items()}
    found = connection.execute(_put(connection.dialect.name), given).first()
    return None if found is None else (int(found.id), str(found.blob_key))


@cache
def _put(dialect: str) -> Any:
    new = {
        column.name: sa.bindparam(f"new_{column.name}", type_=column.type)
        for column in (packs.c.domain_id, packs.c.digest, packs.c.blob_key, packs.c.size_bytes, packs.c.created_us)
    }
    is_doomed = sa.select(sa.literal(1)).where(doomed_blobs.c.blob_key == new["blob_key"]).exists()
    statement = bulk.insert_into(dialect, packs).from_select(list(new), sa.select(*new.values()).where(~is_doomed))
    acquitted = {"condemned_us": None, "created_us": statement.excluded.created_us}
    statement = statement.on_conflict_do_update(index_elements=["domain_id", "digest"], set_=acquitted)
    return statement.returning(packs.c.id, packs.c.blob_key)


def put_chunks(
    connection: Connection, domain: int, pack_id: int, records: Sequence[Record], sources: Sequence[int] = ()
) -> None:
    """Notes where chunks are. One that is known already stays where it is, unless that is condemned or a source."""
    dialect = connection.dialect.name
    for start in range(0, len(records), bulk.BATCH_ROWS):
        digests, offsets, lengths, raw = zip(*records[start : start + bulk.BATCH_ROWS], strict=True)
        batch = bulk.values_of(dialect, "batch", digest=digests, offset=offsets, length=lengths, raw_bytes=raw)
        given = {"domain": domain, "pack": pack_id, "sources": sources}
        connection.execute(_put_chunks(dialect), batch | given)


@cache
def _put_chunks(dialect: str) -> Any:
    columns = ["domain_id", "digest", "pack_id", "offset", "length", "raw_bytes"]
    number = sa.BigInteger
    batch = bulk.prepared(dialect, "batch", digest=sa.LargeBinary, offset=number, length=number, raw_bytes=number)
    domain, pack = (sa.bindparam(name, type_=number) for name in ("domain", "pack"))
    sources = sa.bindparam("sources", type_=number, expanding=True)
    rows = sa.select(domain, batch.c.digest, pack, batch.c.offset, batch.c.length, batch.c.raw_bytes)
    rows = rows.where(sa.true())  # without it SQLite takes ON CONFLICT for a join's ON
    statement = bulk.insert_into(dialect, chunks).from_select(columns, rows)
    condemned = sa.select(packs.c.condemned_us).where(packs.c.id == sa.literal_column("chunks.pack_id"))
    return statement.on_conflict_do_update(
        index_elements=["domain_id", "digest"],
        set_={name: statement.excluded[name] for name in columns[2:]},
        where=condemned.scalar_subquery().is_not(None) | chunks.c.pack_id.in_(sources),
    )


def present(connection: Connection, domain: str, digests: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    """Index and pack of each of these chunks that a domain has and that is not condemned."""
    dialect = connection.dialect.name
    for start, part in bulk.batches(digests):
        given = bulk.values_of(dialect, "batch", digest=part) | {"domain": domain}
        for position, pack_id in connection.execute(_present(dialect), given):
            yield start + position, pack_id


@cache
def _present(dialect: str) -> sa.Select[Any]:
    batch = bulk.prepared(dialect, "batch", digest=sa.LargeBinary)
    domain = sa.select(domains.c.id).where(domains.c.name == sa.bindparam("domain")).scalar_subquery()
    return (
        sa.select(batch.c.position, chunks.c.pack_id)
        .select_from(bulk.look_up(batch, _chunk_of(batch, domain), _PACK))
        .where(packs.c.condemned_us.is_(None))
    )


def _chunk_of(batch: sa.Subquery, domain: int | sa.ScalarSelect[Any]) -> tuple[sa.FromClause, sa.ColumnElement[bool]]:
    return chunks, (chunks.c.digest == batch.c.digest) & (chunks.c.domain_id == domain)


_PACK = (packs, packs.c.id == chunks.c.pack_id)


def _is_of(manifest_id: int, chunk_id: sa.ColumnElement[int] = chunks.c.id) -> sa.ColumnElement[bool]:
    """Whether an object of a manifest has the chunk."""
    uses = sa.select(sa.literal(1)).select_from(object_chunks)
    uses = uses.join(manifest_objects, manifest_objects.c.object_id == object_chunks.c.object_id)
    return uses.where(object_chunks.c.chunk_id == chunk_id, manifest_objects.c.manifest_id == manifest_id).exists()


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
    """The records of a pack that a manifest reaches and that have a byte in a range, as ranges; neighbours are one.

    Also those that were copied elsewhere meanwhile: what `locate` once said holds until the pack goes.
    """

    def of(table: sa.Table, chunk_id: sa.ColumnElement[int]) -> sa.Select[Any]:
        return sa.select(table.c.offset, (table.c.offset + table.c.length).label("behind")).where(
            table.c.pack_id == pack_id,
            table.c.offset > start - _MAX_RECORD_BYTES,
            table.c.offset < end,
            table.c.offset + table.c.length > start,
            _is_of(manifest_id, chunk_id),
        )

    found = sa.union(of(chunks, chunks.c.id), of(moved_records, moved_records.c.chunk_id))
    merged: list[tuple[int, int]] = []
    for first, behind in connection.execute(found.order_by("offset")):
        if merged and merged[-1][1] == first:
            first = merged.pop()[0]
        merged.append((first, behind))
    return merged


_MAX_RECORD_BYTES = (2 << 20) + HEAD_BYTES
"""A chunk has at most 2 MiB, and is never stored longer."""

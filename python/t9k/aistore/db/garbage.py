"""SQL of the garbage collector: each statement removes what nothing above it names.

Rows go from above to below: manifests without a version, objects without a manifest, packs without an object. A
statement works on a range of numbers, so that no transaction is long. Foreign keys make the database refuse to
remove what is still named.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from t9k.aistore.db import bulk
from t9k.aistore.db.dump import are_blobs_held
from t9k.aistore.db.tables.artifacts import (
    chunks,
    commits,
    doomed_blobs,
    lease_packs,
    leases,
    manifest_objects,
    manifests,
    object_chunks,
    objects,
    packs,
    versions,
)


def firsts(connection: Connection, what: str, step: int) -> range:
    """The first numbers of ranges of so many numbers, which have all manifests, objects or packs."""
    table = {"manifests": manifests, "objects": objects, "packs": packs}[what]
    highest = connection.execute(sa.select(sa.func.max(table.c.id))).scalar() or 0
    return range(0, highest + 1, step)


def forget_commits(connection: Connection, before_us: int) -> int:
    """Forgets answers of commits that nobody repeats any more."""
    return connection.execute(sa.delete(commits).where(commits.c.at_us < before_us)).rowcount


def condemn_manifests(connection: Connection, first: int, behind: int, now_us: int) -> int:
    """Condemns manifests that no version has: from then on no commit finds them."""
    is_named = sa.select(sa.literal(1)).where(versions.c.manifest_id == manifests.c.id).exists()
    in_range = (manifests.c.id >= first) & (manifests.c.id < behind) & manifests.c.condemned_us.is_(None)
    statement = sa.update(manifests).where(in_range, ~is_named).values(condemned_us=now_us)
    return connection.execute(statement).rowcount


def condemned_manifests(connection: Connection) -> list[int]:
    """Numbers of condemned manifests."""
    return list(connection.execute(sa.select(manifests.c.id).where(manifests.c.condemned_us.is_not(None))).scalars())


def let_go(connection: Connection, manifest_id: int, limit: int, now_us: int) -> int:
    """Lets a condemned manifest go of some objects, which stay for as long as a lease; answers how many."""
    query = sa.select(manifest_objects.c.object_id).where(manifest_objects.c.manifest_id == manifest_id).limit(limit)
    numbers = list(connection.execute(query).scalars())
    if numbers:
        batch = bulk.table_of(connection, id=(sa.BigInteger, numbers))
        which = sa.select(batch.c.id)
        connection.execute(sa.update(objects).where(objects.c.id.in_(which)).values(asked_us=now_us))
        named = (manifest_objects.c.manifest_id == manifest_id) & manifest_objects.c.object_id.in_(which)
        connection.execute(sa.delete(manifest_objects).where(named))
    return len(numbers)


def delete_manifest(connection: Connection, manifest_id: int) -> bool:
    """Removes a condemned manifest that has let go of its objects, and dooms its blob; not while blobs are held."""
    if are_blobs_held(connection):
        return False
    statement = sa.delete(manifests).where(manifests.c.id == manifest_id, manifests.c.condemned_us.is_not(None))
    key = connection.execute(statement.returning(manifests.c.blob_key)).scalar()
    if key is not None:
        connection.execute(sa.insert(doomed_blobs).values(blob_key=key))
    return key is not None


def delete_objects(connection: Connection, first: int, behind: int, asked_before_us: int) -> int:
    """Removes objects that no manifest names and that `plan` has not vouched for lately. Their chunks stay."""
    statement = sa.delete(objects).where(objects.c.id >= first, objects.c.id < behind, ~_stays(asked_before_us))
    return connection.execute(statement).rowcount


def _stays(asked_before_us: int) -> sa.ColumnElement[bool]:
    is_named = sa.select(sa.literal(1)).where(manifest_objects.c.object_id == objects.c.id).exists()
    return (objects.c.asked_us >= asked_before_us) | is_named


def is_used(asked_before_us: int | None = None) -> sa.ColumnElement[bool]:
    """Whether an object has a chunk of the statement; with a time, one that `delete_objects` leaves."""
    uses = sa.select(sa.literal(1)).where(object_chunks.c.chunk_id == chunks.c.id)
    if asked_before_us is not None:
        uses = uses.where(objects.c.id == object_chunks.c.object_id, _stays(asked_before_us))
    return uses.correlate(chunks).exists()


def condemn_packs(connection: Connection, first: int, behind: int, now_us: int) -> int:
    """Ends leases that have expired, and condemns packs of which no object and no lease has anything."""
    connection.execute(sa.delete(leases).where(leases.c.expires_us < now_us))
    in_range = (packs.c.id >= first) & (packs.c.id < behind) & packs.c.condemned_us.is_(None)
    statement = sa.update(packs).where(in_range, ~_is_leased(now_us), ~_has_used()).values(condemned_us=now_us)
    return connection.execute(statement).rowcount


def _is_leased(now_us: int) -> sa.ColumnElement[bool]:
    of_pack = (lease_packs.c.pack_id == packs.c.id) & (leases.c.expires_us >= now_us)
    return sa.select(sa.literal(1)).join_from(lease_packs, leases).where(of_pack).exists()


def _has_used(asked_before_us: int | None = None) -> sa.ColumnElement[bool]:
    return sa.select(sa.literal(1)).where(chunks.c.pack_id == packs.c.id, is_used(asked_before_us)).exists()


def unreached_packs(
    connection: Connection, first: int, behind: int, now_us: int, asked_before_us: int
) -> tuple[int, int]:
    """Number and bytes of the packs in a range that a collection would condemn now."""
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(packs.c.size_bytes), 0)).where(
        packs.c.id >= first,
        packs.c.id < behind,
        packs.c.condemned_us.is_(None),
        ~_is_leased(now_us),
        ~_has_used(asked_before_us),
    )
    count, size_bytes = connection.execute(query).one()
    return int(count), int(size_bytes)


def deletable_packs(connection: Connection, condemned_before_us: int) -> tuple[int, int]:
    """Number and bytes of the packs that a collection would delete now."""
    if are_blobs_held(connection):
        return 0, 0
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(packs.c.size_bytes), 0))
    count, size_bytes = connection.execute(query.where(packs.c.condemned_us < condemned_before_us)).one()
    return int(count), int(size_bytes)


def overdue_packs(connection: Connection, condemned_before_us: int) -> list[int]:
    """Numbers of packs whose grace is over."""
    return list(connection.execute(sa.select(packs.c.id).where(packs.c.condemned_us < condemned_before_us)).scalars())


def delete_pack(connection: Connection, pack_id: int, condemned_before_us: int) -> int:
    """Removes a pack whose grace is over, with its chunks, and dooms its blob; not while blobs are held.

    Answers its bytes; 0 if it stays.
    """
    if are_blobs_held(connection):
        return 0
    is_overdue = (packs.c.id == pack_id) & (packs.c.condemned_us < condemned_before_us)
    found = connection.execute(sa.select(packs.c.blob_key, packs.c.size_bytes).where(is_overdue)).first()
    if found is None:
        return 0
    connection.execute(sa.delete(chunks).where(chunks.c.pack_id == pack_id))
    connection.execute(sa.delete(packs).where(packs.c.id == pack_id))
    connection.execute(sa.insert(doomed_blobs).values(blob_key=found.blob_key))
    return int(found.size_bytes)


def doomed(connection: Connection, limit: int) -> list[str]:
    """Keys of blobs whose rows are gone."""
    return list(connection.execute(sa.select(doomed_blobs.c.blob_key).limit(limit)).scalars())


def forget_blob(connection: Connection, key: str) -> None:
    """Notes that a doomed blob was deleted."""
    connection.execute(sa.delete(doomed_blobs).where(doomed_blobs.c.blob_key == key))


def doom_orphans(connection: Connection, keys: Sequence[str]) -> int:
    """Dooms those of these blobs that no row names; answers how many."""
    found = orphans(connection, keys)
    if found:
        connection.execute(sa.insert(doomed_blobs), [{"blob_key": key} for key in found])
    return len(found)


def is_doomed(connection: Connection, key: str) -> bool:
    """Whether a blob is about to be deleted: then no row may name it."""
    query = sa.select(doomed_blobs.c.blob_key).where(doomed_blobs.c.blob_key == key)
    return connection.execute(query).first() is not None


def orphans(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Those of these blobs that no row names."""
    batch = bulk.table_of(connection, key=(sa.Text, keys))
    query: Any = sa.select(batch.c.key)
    for table in (packs, manifests, doomed_blobs):
        query = query.where(~sa.select(sa.literal(1)).where(table.c.blob_key == batch.c.key).exists())
    return list(connection.execute(query).scalars())

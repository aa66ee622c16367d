"""SQL of manifests, of an artifact's versions and aliases, and of commits that were answered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db import bulk
from t9k.aistore.db.tables.artifacts import (
    BAD,
    aliases,
    commits,
    deleted_numbers,
    domains,
    manifest_objects,
    manifests,
    objects,
    retentions,
    versions,
)
from t9k.aistore.db.tables.tree import nodes


def complete_manifest(connection: Connection, domain: int, digest: bytes) -> Row[Any] | None:
    """A manifest of this digest in a domain, all of whose objects were hashed whole."""
    query = sa.select(manifests).where(
        manifests.c.domain_id == domain,
        manifests.c.digest == digest,
        manifests.c.checking_count == 0,
        manifests.c.bad_count == 0,
        manifests.c.condemned_us.is_(None),
    )
    return connection.execute(query.limit(1)).first()


def has_manifest_blob(connection: Connection, blob_key: str) -> bool:
    """Whether a manifest's bytes are this blob."""
    return connection.execute(sa.select(manifests.c.id).where(manifests.c.blob_key == blob_key)).first() is not None


def insert_manifest(connection: Connection, object_ids: Sequence[int], **values: Any) -> int:
    """Adds a manifest with the objects that it names; answers its number."""
    statement = sa.insert(manifests).values(**values, object_count=len(object_ids)).returning(manifests.c.id)
    number: int = connection.execute(statement).scalar_one()
    for start in range(0, len(object_ids), bulk.BATCH_ROWS):
        batch = bulk.table_of(connection, id=(sa.BigInteger, object_ids[start : start + bulk.BATCH_ROWS]))
        rows = sa.select(sa.literal(number, sa.BigInteger), batch.c.id)
        connection.execute(sa.insert(manifest_objects).from_select(["manifest_id", "object_id"], rows))
    return number


_VERSION = sa.select(
    versions,
    manifests.c.domain_id,
    manifests.c.digest,
    manifests.c.blob_key,
    manifests.c.manifest_bytes,
    manifests.c.object_count,
    manifests.c.size_bytes,
    manifests.c.checking_count,
    manifests.c.bad_count,
).join(manifests, manifests.c.id == versions.c.manifest_id)


def version(connection: Connection, node_id: str, number: int | None = None) -> Row[Any] | None:
    """A version of an artifact with what its manifest says; the latest by default."""
    query = _VERSION.where(versions.c.node_id == node_id)
    if number is not None:
        query = query.where(versions.c.number == number)
    return connection.execute(query.order_by(versions.c.number.desc()).limit(1)).first()


def page(connection: Connection, node_id: str, before: int | None, limit: int) -> list[Row[Any]]:
    """Versions of an artifact, the latest first, those below a number."""
    query = _VERSION.where(versions.c.node_id == node_id)
    if before is not None:
        query = query.where(versions.c.number < before)
    return list(connection.execute(query.order_by(versions.c.number.desc()).limit(limit)))


def by_digest(connection: Connection, node_id: str, first: bytes, last: bytes) -> list[Row[Any]]:
    """At most two different manifests' latest versions whose digests are from `first` to `last`."""
    newest = (
        sa.select(sa.func.max(versions.c.number))
        .join(manifests, manifests.c.id == versions.c.manifest_id)
        .where(versions.c.node_id == node_id, manifests.c.digest.between(first, last))
        .group_by(manifests.c.digest)
        .limit(2)
    )
    query = _VERSION.where(versions.c.node_id == node_id, versions.c.number.in_(newest))
    return list(connection.execute(query))


def holding(connection: Connection, digest: bytes, owners: sa.Select[Any], limit: int) -> list[Row[Any]]:
    """Artifacts of some owners with an object, the oldest first, and the newest version of each that has it."""
    query = (
        sa.select(versions.c.node_id, sa.func.max(versions.c.number).label("number"))
        .join(manifest_objects, manifest_objects.c.manifest_id == versions.c.manifest_id)
        .join(objects, objects.c.id == manifest_objects.c.object_id)
        .join(nodes, nodes.c.id == versions.c.node_id)
        .where(
            objects.c.domain_id.in_(sa.select(domains.c.id)),  # so that the index by domain and digest is used
            objects.c.digest == digest,
            objects.c.state != BAD,
            nodes.c.owner_id.in_(owners),
        )
        .group_by(versions.c.node_id)
    )
    return list(connection.execute(query.order_by(versions.c.node_id).limit(limit)))


def by_alias(connection: Connection, node_id: str, alias: str) -> int | None:
    """The number of the version that has an alias."""
    query = sa.select(aliases.c.number).where(aliases.c.node_id == node_id, aliases.c.alias == alias)
    return connection.execute(query).scalar()


def insert_version(connection: Connection, **values: Any) -> None:
    """Adds a version of an artifact."""
    connection.execute(sa.insert(versions).values(**values))


def next_number(connection: Connection, node_id: str) -> int:
    """The number of an artifact's next version, which none of it has or had."""
    highest = (
        sa.select(sa.func.max(versions.c.number).label("number")).where(versions.c.node_id == node_id),
        sa.select(deleted_numbers.c.highest).where(deleted_numbers.c.node_id == node_id),
    )
    used = sa.union_all(*highest).subquery()
    return (connection.execute(sa.select(sa.func.max(used.c.number))).scalar() or 0) + 1


def copy_versions(connection: Connection, from_node_id: str, to_node_id: str) -> None:
    """Gives an artifact all versions and aliases of another one.

    Manifests and bytes are shared, by reference: they stay as long as either has them, whoever owns them.
    """
    for table in (versions, aliases, retentions, deleted_numbers):
        columns = [column.name for column in table.columns]
        rows = sa.select(sa.literal(to_node_id), *(table.c[name] for name in columns[1:]))
        connection.execute(sa.insert(table).from_select(columns, rows.where(table.c.node_id == from_node_id)))


def aliases_of(connection: Connection, node_id: str, numbers: Iterable[int]) -> dict[int, list[str]]:
    """Aliases of some versions of an artifact, by number."""
    query = sa.select(aliases).where(aliases.c.node_id == node_id, aliases.c.number.in_(list(numbers)))
    found: dict[int, list[str]] = {}
    for row in connection.execute(query.order_by(aliases.c.alias)):
        found.setdefault(row.number, []).append(row.alias)
    return found


def count_aliases(connection: Connection, node_id: str) -> int:
    """How many aliases an artifact has."""
    query = sa.select(sa.func.count()).select_from(aliases).where(aliases.c.node_id == node_id)
    return connection.execute(query).scalar_one()


def move_alias(connection: Connection, node_id: str, alias: str, number: int) -> None:
    """Makes an alias name this version and no other."""
    statement = bulk.insert(connection, aliases).values(node_id=node_id, alias=alias, number=number)
    connection.execute(statement.on_conflict_do_update(index_elements=["node_id", "alias"], set_={"number": number}))


def delete_alias(connection: Connection, node_id: str, alias: str) -> bool:
    """Removes an alias; whether there was one."""
    statement = sa.delete(aliases).where(aliases.c.node_id == node_id, aliases.c.alias == alias)
    return connection.execute(statement).rowcount > 0


def pin(connection: Connection, node_id: str, number: int, *, pinned: bool) -> None:
    """Keeps a version whatever the retention says, or no more."""
    statement = sa.update(versions).where(versions.c.node_id == node_id, versions.c.number == number)
    connection.execute(statement.values(pinned=pinned))


def delete_version(connection: Connection, node_id: str, number: int) -> None:
    """Removes a version and its aliases; its number is not used again."""
    connection.execute(sa.delete(versions).where(versions.c.node_id == node_id, versions.c.number == number))
    statement = bulk.insert(connection, deleted_numbers).values(node_id=node_id, highest=number)
    is_higher = deleted_numbers.c.highest < number
    connection.execute(
        statement.on_conflict_do_update(index_elements=["node_id"], set_={"highest": number}, where=is_higher)
    )


def retention(connection: Connection, node_id: str) -> Row[Any] | None:
    """How long an artifact's versions are kept; None is for ever."""
    return connection.execute(sa.select(retentions).where(retentions.c.node_id == node_id)).first()


def set_retention(connection: Connection, node_id: str, keep_last: int | None, ttl_s: int | None) -> None:
    """Changes how long an artifact's versions are kept."""
    values = {"keep_last": keep_last, "ttl_s": ttl_s}
    statement = bulk.insert(connection, retentions).values(node_id=node_id, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["node_id"], set_=values))


def with_retention(connection: Connection) -> list[Row[Any]]:
    """All retentions that let something go."""
    is_set = retentions.c.keep_last.is_not(None) | retentions.c.ttl_s.is_not(None)
    return list(connection.execute(sa.select(retentions).where(is_set)))


def expired(connection: Connection, node_id: str, keep_last: int | None, made_before_us: int | None) -> list[int]:
    """Numbers of versions that a retention lets go: neither pinned, nor the latest, nor with an alias."""
    rank = sa.func.row_number().over(order_by=versions.c.number.desc()).label("rank")
    ranked = sa.select(versions, rank).where(versions.c.node_id == node_id).subquery()
    is_named = (
        sa.select(sa.literal(1)).where(aliases.c.node_id == node_id, aliases.c.number == ranked.c.number).exists()
    )
    goes: list[sa.ColumnElement[bool]] = []
    if keep_last is not None:
        goes.append(ranked.c.rank > keep_last)
    if made_before_us is not None:
        goes.append(ranked.c.created_us < made_before_us)
    query = sa.select(ranked.c.number).where(ranked.c.rank > 1, ~ranked.c.pinned, ~is_named, sa.or_(*goes))
    return list(connection.execute(query).scalars())


def bad_objects(connection: Connection, manifest_id: int, limit: int) -> list[bytes]:
    """Digests of objects of a manifest whose chunks are not their bytes."""
    query = (
        sa.select(objects.c.digest)
        .join(manifest_objects, manifest_objects.c.object_id == objects.c.id)
        .where(manifest_objects.c.manifest_id == manifest_id, objects.c.state == BAD)
        .limit(limit)
    )
    return [bytes(digest) for digest in connection.execute(query).scalars()]


def answered(connection: Connection, user_id: str, key: str) -> Row[Any] | None:
    """The commit that this user made with this idempotency key."""
    return connection.execute(sa.select(commits).where(commits.c.user_id == user_id, commits.c.key == key)).first()


def note_answer(connection: Connection, **values: Any) -> None:
    """Notes the answer of a commit under its idempotency key."""
    connection.execute(sa.insert(commits).values(**values))

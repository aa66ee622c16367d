"""SQL of domains and of leases, which keep the garbage collector from packs."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from t9k.aistore.clock import new_id
from t9k.aistore.db import bulk
from t9k.aistore.db.tables.artifacts import chunks, domains, lease_packs, leases, moved_records, packs


def domain_id(connection: Connection, name: str) -> int | None:
    """The number of a domain; None if nothing was ever stored in it."""
    return connection.execute(sa.select(domains.c.id).where(domains.c.name == name)).scalar()


def make_domain(connection: Connection, name: str) -> int:
    """The number of a domain, given now if it has none."""
    found = domain_id(connection, name)
    if found is not None:
        return found
    statement = sa.insert(domains).values(name=name).returning(domains.c.id)
    return int(connection.execute(statement).scalar_one())


def take(connection: Connection, domain: int, user_id: str, expires_us: int) -> str:
    """Makes a lease."""
    lease_id = new_id()
    row = {"id": lease_id, "domain_id": domain, "user_id": user_id, "expires_us": expires_us}
    connection.execute(sa.insert(leases).values(row))
    return lease_id


_HELD = (
    sa.select(leases.c.domain_id, leases.c.expires_us)
    .join(domains, domains.c.id == leases.c.domain_id)
    .where(
        leases.c.id == sa.bindparam("lease_id"),
        leases.c.user_id == sa.bindparam("user"),
        domains.c.name == sa.bindparam("domain"),
    )
)


def find(connection: Connection, lease_id: str, domain: str, user_id: str) -> Any:
    """A lease of this user in this domain, its `domain_id` and `expires_us`; None if there is none."""
    return connection.execute(_HELD, {"lease_id": lease_id, "user": user_id, "domain": domain}).first()


def renew(connection: Connection, lease_id: str, expires_us: int) -> None:
    """Prolongs a lease."""
    connection.execute(sa.update(leases).where(leases.c.id == lease_id).values(expires_us=expires_us))


def put(connection: Connection, lease_id: str, pack_id: int) -> None:
    """Puts a pack under a lease that was just made or acquitted."""
    connection.execute(_put(connection.dialect.name), {"lease_id": lease_id, "pack_id": pack_id})


@cache
def _put(dialect: str) -> Any:
    return bulk.insert_into(dialect, lease_packs).on_conflict_do_nothing()


def protect(connection: Connection, lease_id: str, pack_ids: Iterable[int]) -> set[int]:
    """Puts packs under a lease; answers those that are there and not condemned, which now stay.

    So do those to which their chunks were moved since somebody looked.
    """
    wanted = sorted(pack_ids)
    alive: set[int] = set()
    for start in range(0, len(wanted), bulk.BATCH_ROWS):
        batch = bulk.table_of(connection, pack_id=(sa.BigInteger, wanted[start : start + bulk.BATCH_ROWS]))
        there = bulk.look_up(batch, (packs, packs.c.id == batch.c.pack_id))
        query = sa.select(packs.c.id).select_from(there).where(packs.c.condemned_us.is_(None))
        home = packs.alias()
        moved = (
            (moved_records, moved_records.c.pack_id == packs.c.id),
            (chunks, chunks.c.id == moved_records.c.chunk_id),
            (home, home.c.id == chunks.c.pack_id),
        )
        now_in = sa.select(home.c.id).select_from(bulk.look_up(there, *moved)).where(home.c.condemned_us.is_(None))
        alive.update(connection.execute(sa.union(query, now_in)).scalars())
    rows = [{"lease_id": lease_id, "pack_id": pack_id} for pack_id in sorted(alive)]
    if rows:
        connection.execute(_put(connection.dialect.name), rows)
    return alive

"""SQL of domains and of leases, which keep the garbage collector from packs."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from t9k.aistore.clock import new_id
from t9k.aistore.db import bulk
from t9k.aistore.db.tables.artifacts import domains, lease_packs, leases, packs


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


def renew(connection: Connection, lease_id: str, domain: int, user_id: str, expires_us: int) -> bool:
    """Prolongs a lease of this user in this domain; whether there is one."""
    statement = sa.update(leases).where(
        leases.c.id == lease_id, leases.c.domain_id == domain, leases.c.user_id == user_id
    )
    return connection.execute(statement.values(expires_us=expires_us)).rowcount > 0


def put(connection: Connection, lease_id: str, pack_id: int) -> None:
    """Puts a pack under a lease that was just made or acquitted."""
    row = {"lease_id": lease_id, "pack_id": pack_id}
    connection.execute(bulk.insert(connection, lease_packs).values(row).on_conflict_do_nothing())


def protect(connection: Connection, lease_id: str, pack_ids: Iterable[int]) -> set[int]:
    """Puts packs under a lease; answers those that are there and not condemned, which now stay."""
    wanted = sorted(pack_ids)
    alive: set[int] = set()
    for start in range(0, len(wanted), bulk.BATCH_ROWS):
        batch = bulk.table_of(connection, pack_id=(sa.BigInteger, wanted[start : start + bulk.BATCH_ROWS]))
        there = bulk.look_up(batch, (packs, packs.c.id == batch.c.pack_id))
        query = sa.select(packs.c.id).select_from(there).where(packs.c.condemned_us.is_(None))
        alive.update(connection.execute(query).scalars())
    rows = [{"lease_id": lease_id, "pack_id": pack_id} for pack_id in sorted(alive)]
    if rows:
        connection.execute(bulk.insert(connection, lease_packs).on_conflict_do_nothing(), rows)
    return alive

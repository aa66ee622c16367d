"""SQL of shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db.tables.accounts import groups, users
from t9k.aistore.db.tables.tree import nodes, shares


def named(connection: Connection, node_ids: Sequence[str]) -> list[Row[Any]]:
    """The shares of some nodes, with the names of users and groups; null is the public."""
    query = (
        sa.select(shares, sa.func.coalesce(users.c.name, groups.c.name).label("name"))
        .outerjoin(users, sa.and_(shares.c.grantee_kind == "user", shares.c.grantee_id == users.c.id))
        .outerjoin(groups, sa.and_(shares.c.grantee_kind == "group", shares.c.grantee_id == groups.c.id))
        .where(shares.c.node_id.in_(node_ids))
    )
    return list(connection.execute(query))


def add(connection: Connection, node_id: str, grantee_kind: str, grantee_id: str, access: str, created_us: int) -> None:
    """Adds a share."""
    row = {"node_id": node_id, "grantee_kind": grantee_kind, "grantee_id": grantee_id}
    connection.execute(sa.insert(shares).values({**row, "access": access, "created_us": created_us}))


def remove(connection: Connection, node_id: str, grantee_kind: str, grantee_id: str) -> str | None:
    """Removes a share; answers what it gave, None if there was none."""
    here = (
        shares.c.node_id == node_id,
        shares.c.grantee_kind == grantee_kind,
        shares.c.grantee_id == grantee_id,
    )
    access: str | None = connection.execute(sa.select(shares.c.access).where(*here)).scalar()
    if access is not None:
        connection.execute(sa.delete(shares).where(*here))
    return access


def remove_all_of(connection: Connection, grantee_kind: str, grantee_id: str) -> int:
    """Removes all shares with a user or group; answers how many."""
    here = (shares.c.grantee_kind == grantee_kind, shares.c.grantee_id == grantee_id)
    return connection.execute(sa.delete(shares).where(*here)).rowcount


def seen_owners(user_id: str, group_ids: Sequence[str]) -> sa.Select[Any]:
    """Selects the owners of whose nodes a user may see some: the user, and who shares one with them or everybody."""
    grantees = sa.or_(
        shares.c.grantee_kind == "public",
        sa.and_(shares.c.grantee_kind == "user", shares.c.grantee_id == user_id),
        sa.and_(shares.c.grantee_kind == "group", shares.c.grantee_id.in_(group_ids)),
    )
    sharers = sa.select(nodes.c.owner_id).where(nodes.c.id.in_(sa.select(shares.c.node_id).where(grantees)))
    return sa.select(users.c.id).where(sa.or_(users.c.id == user_id, users.c.id.in_(sharers)))


def shared_with(
    connection: Connection, user_id: str, group_ids: Sequence[str], after: str | None, limit: int
) -> list[Row[Any]]:
    """Nodes of others, in the trash or not, that a user or some groups share: by falling id, below `after`."""
    grantees = sa.or_(
        sa.and_(shares.c.grantee_kind == "user", shares.c.grantee_id == user_id),
        sa.and_(shares.c.grantee_kind == "group", shares.c.grantee_id.in_(group_ids)),
    )
    query = sa.select(nodes).where(
        nodes.c.id.in_(sa.select(shares.c.node_id).where(grantees)), nodes.c.owner_id != user_id
    )
    if after is not None:
        query = query.where(nodes.c.id < after)
    return list(connection.execute(query.order_by(nodes.c.id.desc()).limit(limit)))

"""SQL of listings: keyset pages, each order with an index of its own, so that any page costs the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db.filters import condition
from t9k.aistore.db.subtrees import ENDED_US
from t9k.aistore.db.tables.tree import nodes
from t9k.aistore.tree.query import Filter

ORDERS = {
    "name": (nodes.c.name_key, nodes.c.id),
    "created": (nodes.c.created_us, nodes.c.id),
    "changed": (nodes.c.changed_us, nodes.c.id),
    "kind": (nodes.c.kind, nodes.c.name_key, nodes.c.id),
}
"""What a listing can be sorted by: columns that together tell any two nodes apart."""


def children(
    connection: Connection,
    folder_id: str,
    order: str,
    *,
    descending: bool,
    after: Sequence[Any] | None,
    limit: int,
    wanted: Filter | None = None,
) -> list[Row[Any]]:
    """Nodes of a folder, of a filter if given, that follow those whose order columns are `after`; at most `limit`."""
    query = children_query(folder_id, order, descending, after, limit)
    if wanted is not None:
        query = query.where(condition(wanted))
    return list(connection.execute(query))


def children_query(
    folder_id: str, order: str, descending: bool, after: Sequence[Any] | None, limit: int
) -> sa.Select[Any]:
    """The query of `children`."""
    columns = ORDERS[order]
    query = sa.select(nodes).where(nodes.c.parent_id == folder_id, nodes.c.trashed_us.is_(None))
    if after is not None:
        here, there = sa.tuple_(*columns), sa.tuple_(*after)
        query = query.where(here < there if descending else here > there)
    return query.order_by(*(column.desc() if descending else column for column in columns)).limit(limit)


def order_values(row: Row[Any], order: str) -> list[Any]:
    """What the next page follows."""
    return [row._mapping[column] for column in ORDERS[order]]


def trashed(connection: Connection, owner_id: str, after: Sequence[Any] | None, limit: int) -> list[Row[Any]]:
    """What was deleted from a user's tree and can be restored, the latest first."""
    columns = (nodes.c.trashed_us, nodes.c.id)
    query = sa.select(nodes).where(nodes.c.owner_id == owner_id, nodes.c.trashed_us > ENDED_US)
    if after is not None:
        query = query.where(sa.tuple_(*columns) < sa.tuple_(*after))
    return list(connection.execute(query.order_by(*(column.desc() for column in columns)).limit(limit)))

"""SQL of what lies below a node: its extent, owner, copies and end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db.nodes import insert_rows
from t9k.aistore.db.tables.tree import labels, nodes
from t9k.protocol import MAX_DEPTH

IN_ONE_QUERY = 1000
"""Ids in one IN list."""

ENDED_US = 0
"""`trashed_us` of what nobody can restore any more: the background removes it piece by piece."""


def folder_extent(connection: Connection, folder_id: str) -> tuple[int, int]:
    """How deep folders lie below this one, and the most bytes that their names add to its path.

    Reads folders only, by the index of kinds: however many runs lie there.
    """
    start = sa.select(nodes.c.id, sa.literal(0).label("depth"), sa.literal(0).label("size_bytes"))
    below = start.where(nodes.c.id == folder_id).cte("below", recursive=True)
    step = (
        sa.select(nodes.c.id, below.c.depth + 1, below.c.size_bytes + 1 + sa.func.octet_length(nodes.c.name))
        .join(below, nodes.c.parent_id == below.c.id)
        .where(nodes.c.kind == "Folder", nodes.c.trashed_us.is_(None), below.c.depth <= MAX_DEPTH)
    )
    below = below.union_all(step)
    row = connection.execute(sa.select(sa.func.max(below.c.depth), sa.func.max(below.c.size_bytes))).one()
    return row[0], row[1]


def set_owner(connection: Connection, node_id: str, owner_id: str) -> None:
    """Hands a node over with all below it, in the trash or not."""
    below = sa.select(nodes.c.id).where(nodes.c.id == node_id).cte("below", recursive=True)
    below = below.union_all(sa.select(nodes.c.id).join(below, nodes.c.parent_id == below.c.id))
    connection.execute(sa.update(nodes).where(nodes.c.id.in_(sa.select(below.c.id))).values(owner_id=owner_id))


def children_of(connection: Connection, folder_ids: Sequence[str], limit: int) -> list[Row[Any]]:
    """Nodes in some folders that are not in the trash, at most `limit`."""
    found: list[Row[Any]] = []
    for start in range(0, len(folder_ids), IN_ONE_QUERY):
        part = folder_ids[start : start + IN_ONE_QUERY]
        query = sa.select(nodes).where(nodes.c.parent_id.in_(part), nodes.c.trashed_us.is_(None))
        found += connection.execute(query.limit(limit - len(found)))
        if len(found) >= limit:
            break
    return found


def insert_copies(connection: Connection, copies: Sequence[dict[str, Any]], originals: dict[str, str]) -> None:
    """Adds rows of nodes, parents before children, with the labels of their originals (new id by original's)."""
    insert_rows(connection, copies)
    ids = list(originals)
    for start in range(0, len(ids), IN_ONE_QUERY):
        part = ids[start : start + IN_ONE_QUERY]
        found = connection.execute(sa.select(labels).where(labels.c.node_id.in_(part)))
        rows = [{**row._mapping, "node_id": originals[row.node_id]} for row in found]
        if rows:
            connection.execute(sa.insert(labels), rows)


def names_that_clash(connection: Connection, folder_id: str) -> list[str]:
    """Names in a folder that differ only in case; some of them."""
    live = (nodes.c.parent_id == folder_id, nodes.c.trashed_us.is_(None))
    clashing = sa.select(nodes.c.name_key).where(*live).group_by(nodes.c.name_key).having(sa.func.count() > 1).limit(1)
    query = sa.select(nodes.c.name).where(*live, nodes.c.name_key.in_(clashing)).limit(2)
    return list(connection.execute(query).scalars())


def set_sibling_keys(connection: Connection, folder_id: str, *, ignore_case: bool) -> None:
    """Lets names in a folder differ by case, or not."""
    key = nodes.c.name_key if ignore_case else nodes.c.name
    live = (nodes.c.parent_id == folder_id, nodes.c.trashed_us.is_(None))
    connection.execute(sa.update(nodes).where(*live).values(sibling_key=key))


def end(connection: Connection, node_id: str) -> None:
    """Takes a node out of the trash for good; its rows go with `remove_ended`."""
    connection.execute(sa.update(nodes).where(nodes.c.id == node_id).values(trashed_us=ENDED_US))


def end_older(connection: Connection, before_us: int, limit: int) -> int:
    """Ends what has been in the trash for too long, at most `limit` nodes; answers how many there were."""
    old = (
        sa.select(nodes.c.id)
        .where(nodes.c.trashed_us.is_not(None), nodes.c.trashed_us > ENDED_US, nodes.c.trashed_us < before_us)
        .limit(limit)
    )
    ids = list(connection.execute(old).scalars())
    if ids:
        connection.execute(sa.update(nodes).where(nodes.c.id.in_(ids)).values(trashed_us=ENDED_US))
    return len(ids)


def remove_ended(connection: Connection, limit: int) -> bool:
    """Removes at most `limit` nodes that have ended, or lie below one; false if there is none."""
    ended = sa.select(nodes.c.id).where(nodes.c.trashed_us == ENDED_US).limit(1)
    node_id = connection.execute(ended).scalar()
    if node_id is None:
        return False
    inner = nodes.alias("inner")
    while True:
        query = sa.select(nodes.c.id).where(nodes.c.parent_id == node_id).limit(limit)
        ids = list(connection.execute(query).scalars())
        if not ids:
            connection.execute(sa.delete(nodes).where(nodes.c.id == node_id))
            return True
        deeper = sa.select(inner.c.parent_id).where(inner.c.parent_id.in_(ids)).limit(1)
        with_children = connection.execute(deeper).scalar()
        if with_children is None:
            connection.execute(sa.delete(nodes).where(nodes.c.id.in_(ids)))
            return True
        node_id = with_children

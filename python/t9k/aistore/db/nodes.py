"""SQL of nodes."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.clock import new_id
from t9k.aistore.db.tables.tree import nodes, shares
from t9k.protocol import MAX_DEPTH

__all__ = ["Connection", "NewNode", "ancestors", "by_id", "child", "insert", "root_of", "shares_of"]


@dataclass(frozen=True)
class NewNode:
    """A node that is about to be inserted. Its name is checked already."""

    parent_id: str | None
    owner_id: str
    kind: str
    name: str
    alternative_name: str | None = None
    description: str = ""
    target_id: str | None = None


def name_key(name: str) -> str:
    """What two names share that are equal without regard to case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def insert(connection: Connection, node: NewNode, now_us: int) -> str:
    """Adds a node; answers its id. A taken name is the database's IntegrityError."""
    node_id = new_id()
    row = {
        "id": node_id,
        "parent_id": node.parent_id,
        "owner_id": node.owner_id,
        "kind": node.kind,
        "name": node.name,
        "name_key": name_key(node.name),
        "alternative_name": node.alternative_name,
        "description": node.description,
        "target_id": node.target_id,
        "version": 1,
        "created_us": now_us,
        "changed_us": now_us,
    }
    connection.execute(sa.insert(nodes).values(row))
    return node_id


def by_id(connection: Connection, node_id: str) -> Row[Any] | None:
    """The node of an id, in the trash or not."""
    return connection.execute(sa.select(nodes).where(nodes.c.id == node_id)).first()


def root_of(connection: Connection, user_name: str) -> Row[Any] | None:
    """The root of a user's tree."""
    query = sa.select(nodes).where(nodes.c.parent_id.is_(None), nodes.c.name == user_name)
    return connection.execute(query).first()


def child(connection: Connection, parent_id: str, name: str) -> Row[Any] | None:
    """The node of a name in a folder."""
    query = sa.select(nodes).where(nodes.c.parent_id == parent_id, nodes.c.name == name, nodes.c.trashed_us.is_(None))
    return connection.execute(query).first()


def ancestors(connection: Connection, node_id: str) -> list[Row[Any]]:
    """The node and those above it, the root last."""
    columns = [nodes.c.id, nodes.c.parent_id, nodes.c.owner_id, nodes.c.name]
    start = sa.select(*columns, sa.literal(0).label("height")).where(nodes.c.id == node_id)
    chain = start.cte("chain", recursive=True)
    above = (
        sa.select(*columns, chain.c.height + 1)
        .join(chain, nodes.c.id == chain.c.parent_id)
        .where(chain.c.height < MAX_DEPTH + 1)
    )
    chain = chain.union_all(above)
    return list(connection.execute(sa.select(chain).order_by(chain.c.height)))


def shares_of(connection: Connection, node_ids: list[str]) -> list[Row[Any]]:
    """The shares of some nodes."""
    return list(connection.execute(sa.select(shares).where(shares.c.node_id.in_(node_ids))))

"""SQL of nodes: one by one, and the way up from one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.clock import new_id
from t9k.aistore.db import bulk
from t9k.aistore.db.tables.tree import labels, nodes, shares
from t9k.protocol import MAX_DEPTH

__all__ = ["Connection", "NewNode"]


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
    ignore_case: bool = False
    sibling_key: str | None = None
    """As `sibling_key` says of its folder; None is the name."""


def name_key(name: str) -> str:
    """What two names share that are equal without regard to case."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def sibling_key(folder: Row[Any], name: str) -> str:
    """What no two nodes in this folder share."""
    return name_key(name) if folder.ignore_case else name


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
        "sibling_key": node.name if node.sibling_key is None else node.sibling_key,
        "ignore_case": node.ignore_case,
        "alternative_name": node.alternative_name,
        "description": node.description,
        "target_id": node.target_id,
        "version": 1,
        "created_us": now_us,
        "changed_us": now_us,
    }
    insert_rows(connection, [row])
    return node_id


def insert_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Adds whole rows, parents before children."""
    connection.execute(sa.insert(nodes), list(rows))


def update(connection: Connection, node_id: str, now_us: int, **values: Any) -> None:
    """Changes columns of a node, which counts as one change."""
    changed = {**values, "version": nodes.c.version + 1, "changed_us": now_us}
    connection.execute(sa.update(nodes).where(nodes.c.id == node_id).values(changed))


def trash(connection: Connection, node_id: str, now_us: int) -> None:
    """Puts a node into the trash, and with it all below, in one row."""
    update(connection, node_id, now_us, trashed_us=now_us)


# Statements of every request are made once: making one takes longer than running it.
_BY_ID = sa.select(nodes).where(nodes.c.id == sa.bindparam("node_id"))
_IS_ROOT = (
    nodes.c.parent_id.is_(None),
    nodes.c.sibling_key == sa.bindparam("user_name"),
    nodes.c.trashed_us.is_(None),
)
_CHILD = sa.select(nodes).where(
    nodes.c.parent_id == sa.bindparam("folder_id"),
    nodes.c.sibling_key == sa.bindparam("sibling_key"),
    nodes.c.trashed_us.is_(None),
)


def by_id(connection: Connection, node_id: str) -> Row[Any] | None:
    """The node of an id, in the trash or not."""
    return connection.execute(_BY_ID, {"node_id": node_id}).first()


def by_ids(connection: Connection, node_ids: Sequence[str]) -> list[Row[Any]]:
    """The nodes of some ids, in the trash or not; those that are there."""
    return list(connection.execute(sa.select(nodes).where(nodes.c.id.in_(node_ids)).order_by(nodes.c.id)))


def child(connection: Connection, folder: Row[Any], name: str) -> Row[Any] | None:
    """The node of a name in a folder, if it is not in the trash."""
    return connection.execute(_CHILD, {"folder_id": folder.id, "sibling_key": sibling_key(folder, name)}).first()


def ancestors(connection: Connection, node_id: str) -> list[Row[Any]]:
    """The node and those above it, the root last: id, parent_id, owner_id, name, trashed_us."""
    return list(connection.execute(_ANCESTORS, {"node_id": node_id}))


_ANCESTOR_COLUMNS = (nodes.c.id, nodes.c.parent_id, nodes.c.owner_id, nodes.c.name, nodes.c.trashed_us)


def _ancestors() -> sa.Select[Any]:
    start = sa.select(*_ANCESTOR_COLUMNS, sa.literal(0).label("height")).where(nodes.c.id == sa.bindparam("node_id"))
    chain = start.cte("chain", recursive=True)
    above = (
        sa.select(*_ANCESTOR_COLUMNS, chain.c.height + 1)
        .join(chain, nodes.c.id == chain.c.parent_id)
        .where(chain.c.height < MAX_DEPTH + 1)
    )
    chain = chain.union_all(above)
    return sa.select(chain).order_by(chain.c.height)


_ANCESTORS = _ancestors()


class Link(NamedTuple):
    """A node on the way up from one."""

    id: str
    owner_id: str
    name: str
    trashed_us: int | None


@dataclass(frozen=True)
class Sight:
    """A node, the way up from it, and the shares on this way that may reach who asks.

    Attributes:
        chain: The node and those above it, the root last.
        shares: Rows with `grantee_kind`, `grantee_id` and `access`.
    """

    node: Row[Any]
    chain: Sequence[Link | Row[Any]]
    shares: list[Row[Any]]


def _sight() -> sa.Select[Any]:
    chain = _ANCESTORS.get_final_froms()[0]
    reaches = sa.or_(
        shares.c.grantee_kind == "public",
        sa.and_(shares.c.grantee_kind == "user", shares.c.grantee_id == sa.bindparam("user_id")),
        sa.and_(shares.c.grantee_kind == "group", shares.c.grantee_id.in_(sa.bindparam("group_ids", expanding=True))),
    )
    link = (chain.c[name].label(f"link_{name}") for name in Link._fields)
    # Of the node alone all columns: a description may be long, and rows of a chain are repeated by its shares.
    joined = chain.outerjoin(nodes, sa.and_(nodes.c.id == chain.c.id, chain.c.height == 0)).outerjoin(
        shares, sa.and_(shares.c.node_id == chain.c.id, reaches)
    )
    query = sa.select(nodes, *link, shares.c.grantee_kind, shares.c.grantee_id, shares.c.access)
    return query.select_from(joined).order_by(chain.c.height)


_SIGHT = _sight()


def sight(connection: Connection, node_id: str, user_id: str, group_ids: Iterable[str]) -> Sight | None:
    """All that decides what a user may do to a node, in one query; None if there is no such node."""
    rows = connection.execute(_SIGHT, {"node_id": node_id, "user_id": user_id, "group_ids": list(group_ids)}).all()
    if not rows:
        return None
    links = (Link(row.link_id, row.link_owner_id, row.link_name, row.link_trashed_us) for row in rows)
    return Sight(rows[0], list(dict.fromkeys(links)), [row for row in rows if row.grantee_kind is not None])


_STEP_COLUMNS = (nodes.c.id, nodes.c.kind, nodes.c.ignore_case)


@cache
def _steps(dialect: str, *, from_root: bool) -> sa.Select[Any]:
    start = sa.select(*_STEP_COLUMNS, sa.literal(0).label("depth"))
    start = start.where(*_IS_ROOT) if from_root else start.where(nodes.c.id == sa.bindparam("node_id"))
    steps = start.cte("steps", recursive=True)
    wanted = bulk.prepared(dialect, "names", name=sa.Text, folded=sa.Text)
    is_child = (
        nodes.c.parent_id == steps.c.id,
        nodes.c.sibling_key == sa.case((steps.c.ignore_case, wanted.c.folded), else_=wanted.c.name),
        nodes.c.trashed_us.is_(None),
    )
    joined = bulk.look_up(steps, (wanted, wanted.c.position == steps.c.depth), (nodes, sa.and_(*is_child)))
    steps = steps.union_all(sa.select(*_STEP_COLUMNS, steps.c.depth + 1).select_from(joined))
    return sa.select(steps).order_by(steps.c.depth)


def descend(connection: Connection, names: Sequence[str], *, user_name: str = "", node_id: str = "") -> list[Row[Any]]:
    """The nodes on a way down, from a user's root or from a node, as far as they are there: id, kind, ignore_case."""
    dialect = connection.dialect.name
    given = bulk.values_of(dialect, "names", name=names, folded=[name_key(name) for name in names])
    given |= {"user_name": user_name} if user_name else {"node_id": node_id}
    return list(connection.execute(_steps(dialect, from_root=bool(user_name)), given))


def _chains() -> sa.Select[Any]:
    start = sa.select(*_ANCESTOR_COLUMNS, nodes.c.id.label("origin"), sa.literal(0).label("height"))
    asked = nodes.c.id.in_(sa.bindparam("node_ids", expanding=True))
    chain = start.where(asked).cte("chain", recursive=True)
    above = (
        sa.select(*_ANCESTOR_COLUMNS, chain.c.origin, chain.c.height + 1)
        .join(chain, nodes.c.id == chain.c.parent_id)
        .where(chain.c.height < MAX_DEPTH + 1)
    )
    chain = chain.union_all(above)
    return sa.select(chain).order_by(chain.c.origin, chain.c.height)


_CHAINS = _chains()


def chains(connection: Connection, node_ids: Sequence[str]) -> dict[str, list[Row[Any]]]:
    """The `ancestors` of some nodes, in one query."""
    found: dict[str, list[Row[Any]]] = {node_id: [] for node_id in node_ids}
    for row in connection.execute(_CHAINS, {"node_ids": list(node_ids)}):
        found[row.origin].append(row)
    return found


_LABELS = (
    sa.select(labels)
    .where(labels.c.node_id.in_(sa.bindparam("node_ids", expanding=True)))
    .order_by(labels.c.node_id, labels.c.position)
)


def labels_of(connection: Connection, node_ids: Sequence[str]) -> dict[str, list[str]]:
    """The labels of some nodes, in the order in which they were given."""
    found: dict[str, list[str]] = {}
    for row in connection.execute(_LABELS, {"node_ids": list(node_ids)}):
        found.setdefault(row.node_id, []).append(row.label)
    return found


def set_labels(connection: Connection, node_id: str, names: Sequence[str]) -> None:
    """Replaces the labels of a node."""
    connection.execute(sa.delete(labels).where(labels.c.node_id == node_id))
    rows = [{"node_id": node_id, "label": label, "position": position} for position, label in enumerate(names)]
    if rows:
        connection.execute(sa.insert(labels), rows)


_SHARES = sa.select(shares).where(shares.c.node_id.in_(sa.bindparam("node_ids", expanding=True)))


def sights(connection: Connection, node_ids: Iterable[str]) -> dict[str, Sight]:
    """The `sight` of each of some nodes that are there, in two queries, with the shares of everybody.

    `node` has no more columns than a `Link`.
    """
    found = {node_id: chain for node_id, chain in chains(connection, sorted(set(node_ids))).items() if chain}
    given: dict[str, list[Row[Any]]] = {}
    for share in shares_of(connection, sorted({row.id for chain in found.values() for row in chain})):
        given.setdefault(share.node_id, []).append(share)
    return {
        node_id: Sight(chain[0], chain, [share for row in chain for share in given.get(row.id, ())])
        for node_id, chain in found.items()
    }


def shares_of(connection: Connection, node_ids: Sequence[str]) -> list[Row[Any]]:
    """The shares of some nodes."""
    return list(connection.execute(_SHARES, {"node_ids": list(node_ids)}))

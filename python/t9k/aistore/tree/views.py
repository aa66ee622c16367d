"""What a caller is told of a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import nodes
from t9k.aistore.tree.access import Access, Node, access_to
from t9k.aistore.tree.names import join_path


@dataclass(frozen=True)
class NodeView:
    """A node as one caller sees it.

    Attributes:
        access: What the caller may do to it.
        path: Of the user's tree that it is in, or was when it was deleted.
        target_id: Of a shortcut; it may lead nowhere.
    """

    id: str
    kind: str
    path: str
    name: str
    parent_id: str | None
    owner: str
    access: Access
    labels: list[str]
    description: str
    target_id: str | None
    ignore_case: bool
    version: int
    created_us: int
    changed_us: int
    trashed_us: int | None


def view(connection: nodes.Connection, caller: Caller, node: Node) -> NodeView:
    """A node that the caller may see."""
    names = [row.name for row in reversed(nodes.ancestors(connection, node.id))]
    labels = nodes.labels_of(connection, [node.id])
    return _view(node, names, access_to(connection, caller, node.id), labels.get(node.id, []))


def view_of(connection: nodes.Connection, caller: Caller, node_id: str) -> NodeView:
    """The node of an id that the caller may see, as it is now."""
    node = nodes.by_id(connection, node_id)
    assert node is not None
    return view(connection, caller, node)


def views_in(connection: nodes.Connection, caller: Caller, folder: Node, below: Sequence[Node]) -> list[NodeView]:
    """Nodes of one folder; as many queries as for one."""
    names = [row.name for row in reversed(nodes.ancestors(connection, folder.id))]
    access = access_to(connection, caller, folder.id)
    labels = nodes.labels_of(connection, [node.id for node in below])
    own = _own_shares(connection, caller, below) if access < Access.EDIT else {}
    return [
        _view(node, [*names, node.name], max(access, own.get(node.id, access)), labels.get(node.id, []))
        for node in below
    ]


def _own_shares(connection: nodes.Connection, caller: Caller, below: Sequence[Node]) -> dict[str, Access]:
    """What shares of the nodes themselves add to those of their folder."""
    shared = {share.node_id for share in nodes.shares_of(connection, [node.id for node in below])}
    return {node_id: access_to(connection, caller, node_id) for node_id in shared}


def _view(node: Node, names: list[str], access: Access, labels: list[str]) -> NodeView:
    return NodeView(
        id=node.id,
        kind=node.kind,
        path=join_path(names),
        name=node.name,
        parent_id=node.parent_id,
        owner=names[0],
        access=access,
        labels=labels,
        description=node.description,
        target_id=node.target_id,
        ignore_case=bool(node.ignore_case),
        version=node.version,
        created_us=node.created_us,
        changed_us=node.changed_us,
        trashed_us=node.trashed_us,
    )

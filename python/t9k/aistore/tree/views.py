"""What a caller is told of a node."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import nodes
from t9k.aistore.tree.access import Access, Node, access_of, is_seen
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


def views(connection: nodes.Connection, caller: Caller, seen: Sequence[Node]) -> list[NodeView]:
    """Nodes that the caller may see, wherever they are; as many queries as for one."""
    return _views(connection, caller, seen, nodes.sights(connection, [node.id for node in seen]))


def visible_views(connection: nodes.Connection, caller: Caller, node_ids: Iterable[str]) -> dict[str, NodeView]:
    """Those of some nodes that the caller may see and that are not in the trash, by id."""
    sights = nodes.sights(connection, node_ids)
    seen = nodes.by_ids(connection, [node_id for node_id, sight in sights.items() if is_seen(caller, sight)])
    return {view.id: view for view in _views(connection, caller, seen, sights)}


def _views(
    connection: nodes.Connection, caller: Caller, seen: Sequence[Node], sights: dict[str, nodes.Sight]
) -> list[NodeView]:
    labels = nodes.labels_of(connection, [node.id for node in seen])
    found = []
    for node in seen:
        sight = sights[node.id]
        names = [link.name for link in reversed(sight.chain)]
        found.append(_view(node, names, access_of(caller, sight), labels.get(node.id, [])))
    return found


def view(connection: nodes.Connection, caller: Caller, sight: nodes.Sight) -> NodeView:
    """A node that the caller may see."""
    names = [link.name for link in reversed(sight.chain)]
    labels = nodes.labels_of(connection, [sight.node.id]).get(sight.node.id, [])
    return _view(sight.node, names, access_of(caller, sight), labels)


def view_of(connection: nodes.Connection, caller: Caller, node_id: str) -> NodeView:
    """A node that the caller may see, as it is now."""
    sight = nodes.sight(connection, node_id, caller.user_id, caller.groups)
    assert sight is not None
    return view(connection, caller, sight)


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

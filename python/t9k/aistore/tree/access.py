"""Who may do what to a node.

A user may do everything in their own tree. A share of a node with a user, a group or the public, to view or to edit,
reaches everything below it. What a caller may not see answers `not_found`, as if it were not there; what they see and
may not change answers `auth`. An administrator has no more rights to others' nodes than anybody.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import nodes
from t9k.aistore.errors import forbidden, not_found
from t9k.aistore.tree.names import split_path

Node = Any  # a row of the table of nodes


class Access(IntEnum):
    """What a caller may do to a node; each includes those before it."""

    NONE = 0
    VIEW = 1
    EDIT = 2
    OWN = 3  # share it too


def access_to(connection: nodes.Connection, caller: Caller, node_id: str) -> Access:
    """What the caller may do to a node: two queries."""
    chain = nodes.ancestors(connection, node_id)
    if chain and caller.user_id and chain[0].owner_id == caller.user_id:
        return Access.OWN
    granted = Access.NONE
    for share in nodes.shares_of(connection, [row.id for row in chain]):
        applies = {
            "public": True,
            "user": share.grantee_id == caller.user_id,
            "group": share.grantee_id in caller.groups,
        }
        if applies[share.grantee_kind]:
            granted = max(granted, Access.EDIT if share.access == "edit" else Access.VIEW)
    if not caller.user_id:
        granted = min(granted, Access.VIEW)  # nobody changes anything without a name
    return granted


def node_for(
    connection: nodes.Connection, caller: Caller, node_id: str, need: Access = Access.VIEW, *, trashed: bool = False
) -> Node:
    """The node of an id, if the caller may do what they need.

    Raises:
        Refusal: It is not there, is in the trash (or is not, with `trashed`), or the caller may not see it
            (`not_found`), or may not do that (`auth`).
    """
    node = nodes.by_id(connection, node_id)
    if node is None or (node.trashed_us is not None) != trashed:
        raise not_found(f"there is no node {node_id}")
    return _checked(connection, caller, node, need, f"node {node_id}")


def node_at(connection: nodes.Connection, caller: Caller, path: str, need: Access = Access.VIEW) -> Node:
    """The node at an absolute path, if the caller may do what they need.

    Raises:
        Refusal: As `node_for`.
    """
    names = split_path(path)
    node = nodes.root_of(connection, names[0])
    for name in names[1:]:
        node = node and nodes.child(connection, node.id, name)
    if node is None:
        raise not_found(f"there is nothing at {path}")
    return _checked(connection, caller, node, need, path)


def _checked(connection: nodes.Connection, caller: Caller, node: Node, need: Access, what: str) -> Node:
    access = access_to(connection, caller, node.id)
    if access == Access.NONE:
        raise not_found(f"there is nothing at {what}" if what.startswith("/") else f"there is no {what}")
    if access < need:
        raise forbidden(f"you may not change {what}" if need == Access.EDIT else f"only the owner may share {what}")
    return node

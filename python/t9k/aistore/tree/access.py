"""Who may do what to a node.

A user may do everything in their own tree. A share of a node with a user, a group or the public, to view or to edit,
reaches everything below it. What a caller may not see answers `not_found`, as if it were not there; what they see and
may not change answers `auth`. An administrator has no more rights to others' nodes than anybody.

A shortcut gives no rights: what it points to is looked at with the caller's own, and one that points to nothing, or to
what the caller may not see, is `not_found`. It never points to another shortcut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import nodes
from t9k.aistore.db.subtrees import ENDED_US
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
    """What the caller may do to a node: two queries. Whether it is in the trash does not matter here."""
    return _access(connection, caller, nodes.ancestors(connection, node_id))


def node_for(
    connection: nodes.Connection, caller: Caller, node_id: str, need: Access = Access.VIEW, *, trashed: bool = False
) -> Node:
    """The node of an id, if the caller may do what they need.

    Args:
        connection: Of the transaction.
        caller: Who asks.
        node_id: Of the node.
        need: What they want to do.
        trashed: Answer a node that was deleted itself, and only such a one.

    Raises:
        Refusal: It is not there, lies in the trash, or the caller may not see it (`not_found`), or may not do that
            (`auth`).
    """
    node = nodes.by_id(connection, node_id)
    if node is None:
        raise not_found(f"there is no node {node_id[:40]}")
    return _checked(connection, caller, node, need, f"node {node_id}", trashed)


def node_at(
    connection: nodes.Connection, caller: Caller, path: str, need: Access = Access.VIEW, *, follow: bool = False
) -> Node:
    """The node at an absolute path, if the caller may do what they need.

    Shortcuts on the way are followed; one at its end only with `follow`.

    Raises:
        Refusal: As `node_for`.
    """
    node, missing = walk(connection, caller, path)
    if follow and node is not None:
        node = target_of(connection, caller, node)
    if node is None or missing:
        raise not_found(f"there is nothing at {path}")
    return check_access(connection, caller, node, need, path)


def walk(connection: nodes.Connection, caller: Caller, path: str) -> tuple[Node | None, list[str]]:
    """The last node on a path that is there, and the names of those that are missing after it.

    Only shortcuts on the way are looked at with the caller's rights: check those to the node. None is a user who is
    not there, or a shortcut that leads nowhere.
    """
    names = split_path(path)
    node = nodes.root_of(connection, names[0])
    if node is None:
        return None, names
    for index, name in enumerate(names[1:], 1):
        folder = target_of(connection, caller, node)
        below = None if folder is None else nodes.child(connection, folder, name)
        if below is None:
            return folder, names[index:]
        node = below
    return node, []


def target_of(connection: nodes.Connection, caller: Caller, node: Node) -> Node | None:
    """What a node stands for: itself, or what the shortcut leads to if the caller may see both, else None."""
    if node.kind != "Shortcut":
        return node
    target = nodes.by_id(connection, node.target_id)
    is_seen = target is not None and all(_is_seen(connection, caller, one.id) for one in (node, target))
    return target if is_seen else None


def _is_seen(connection: nodes.Connection, caller: Caller, node_id: str) -> bool:
    chain = nodes.ancestors(connection, node_id)
    return _access(connection, caller, chain) >= Access.VIEW and all(row.trashed_us is None for row in chain)


def check_access(connection: nodes.Connection, caller: Caller, node: Node, need: Access, what: str) -> Node:
    """The node, if it is not in the trash and the caller may do what they need.

    Raises:
        Refusal: As `node_for`; `what` names it in the message.
    """
    return _checked(connection, caller, node, need, what, False)


def _checked(connection: nodes.Connection, caller: Caller, node: Node, need: Access, what: str, trashed: bool) -> Node:
    chain = nodes.ancestors(connection, node.id)
    access = _access(connection, caller, chain)
    was_deleted = node.trashed_us is not None and node.trashed_us > ENDED_US
    is_here = was_deleted if trashed else all(row.trashed_us is None for row in chain)
    if access == Access.NONE or not is_here:
        raise not_found(f"there is nothing at {what}" if what.startswith("/") else f"there is no {what}")
    if access < need:
        if not caller.user_id:
            raise forbidden(f"{what} is public, and only users may change it", hint="log in")
        raise forbidden(
            f"you may not change {what}" if need == Access.EDIT else f"only its owner may do that to {what}"
        )
    return node


def _access(connection: nodes.Connection, caller: Caller, chain: list[Any]) -> Access:
    return granted(caller, chain, nodes.shares_of(connection, [row.id for row in chain]))


def granted(caller: Caller, chain: Sequence[Any], shares: Iterable[Any]) -> Access:
    """What the shares of a node and of those above it give the caller."""
    if chain and caller.user_id and chain[0].owner_id == caller.user_id:
        return Access.OWN
    access = Access.NONE
    for share in shares:
        applies = {
            "public": True,
            "user": share.grantee_id == caller.user_id,
            "group": share.grantee_id in caller.groups,
        }
        if applies[share.grantee_kind]:
            access = max(access, Access.EDIT if share.access == "edit" else Access.VIEW)
    if not caller.user_id:
        access = min(access, Access.VIEW)  # nobody changes anything without a name
    return access

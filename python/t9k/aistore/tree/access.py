"""Who may do what to a node.

A user may do everything in their own tree. A share of a node with a user, a group or the public, to view or to edit,
reaches everything below it. What a caller may not see answers `not_found`, as if it were not there; what they see and
may not change answers `auth`. An administrator has no more rights to others' nodes than anybody.

A shortcut gives no rights: what it points to is looked at with the caller's own, and one that points to nothing, or to
what the caller may not see, is `not_found`. It never points to another shortcut.
"""

from __future__ import annotations

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
    """What the caller may do to a node. Whether it is in the trash does not matter here."""
    sight = nodes.sight(connection, node_id, caller.user_id, caller.groups)
    return Access.NONE if sight is None else access_of(caller, sight)


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
    return sight_for(connection, caller, node_id, need, trashed=trashed).node


def sight_for(
    connection: nodes.Connection, caller: Caller, node_id: str, need: Access = Access.VIEW, *, trashed: bool = False
) -> nodes.Sight:
    """The node as `node_for` finds it, with the way up from it: one query."""
    sight = nodes.sight(connection, node_id, caller.user_id, caller.groups)
    return check_node(caller, sight, node_id, need, trashed=trashed)


def check_node(
    caller: Caller, sight: nodes.Sight | None, node_id: str, need: Access = Access.VIEW, *, trashed: bool = False
) -> nodes.Sight:
    """The node that was looked up by its id, as `node_for` finds it.

    Raises:
        Refusal: As `node_for`.
    """
    if sight is None:
        raise not_found(f"there is no node {node_id[:40]}")
    return _checked(caller, sight, need, f"node {node_id}", trashed)


def node_at(
    connection: nodes.Connection, caller: Caller, path: str, need: Access = Access.VIEW, *, follow: bool = False
) -> Node:
    """The node at an absolute path, if the caller may do what they need.

    Shortcuts on the way are followed; one at its end only with `follow`.

    Raises:
        Refusal: As `node_for`.
    """
    return sight_at(connection, caller, path, need, follow=follow).node


def sight_at(
    connection: nodes.Connection, caller: Caller, path: str, need: Access = Access.VIEW, *, follow: bool = False
) -> nodes.Sight:
    """The node as `node_at` finds it, with the way up from it: two queries, and two more for each shortcut."""
    sight, missing = walk(connection, caller, path)
    if follow and sight is not None:
        sight = target_of(connection, caller, sight)
    if sight is None or missing:
        raise not_found(f"there is nothing at {path}")
    return check_access(caller, sight, need, path)


def walk(connection: nodes.Connection, caller: Caller, path: str) -> tuple[nodes.Sight | None, list[str]]:
    """The last node on a path that is there, and the names of those that are missing after it.

    Only shortcuts on the way are looked at with the caller's rights: check those to the node. None is a user who is
    not there, or a shortcut that leads nowhere.
    """
    user_name, *missing = split_path(path)
    steps = nodes.descend(connection, missing, user_name=user_name)
    if not steps:
        return None, [user_name, *missing]
    while True:
        missing = missing[len(steps) - 1 :]
        sight = nodes.sight(connection, steps[-1].id, caller.user_id, caller.groups)
        if not missing or sight is None or sight.node.kind != "Shortcut":
            return sight, missing
        folder = target_of(connection, caller, sight)
        if folder is None:
            return None, missing
        steps = nodes.descend(connection, missing, node_id=folder.node.id)
        if len(steps) == 1:
            return folder, missing


def target_of(connection: nodes.Connection, caller: Caller, sight: nodes.Sight) -> nodes.Sight | None:
    """What a node stands for: itself, or what the shortcut leads to if the caller may see both, else None."""
    if sight.node.kind != "Shortcut":
        return sight
    target = nodes.sight(connection, sight.node.target_id, caller.user_id, caller.groups)
    return target if target is not None and is_seen(caller, sight) and is_seen(caller, target) else None


def is_seen(caller: Caller, sight: nodes.Sight) -> bool:
    """Whether a node is not in the trash and the caller may see it."""
    return access_of(caller, sight) >= Access.VIEW and all(link.trashed_us is None for link in sight.chain)


def check_access(caller: Caller, sight: nodes.Sight, need: Access, what: str) -> nodes.Sight:
    """The same, if the node is not in the trash and the caller may do what they need.

    Raises:
        Refusal: As `node_for`; `what` names it in the message.
    """
    return _checked(caller, sight, need, what, False)


def _checked(caller: Caller, sight: nodes.Sight, need: Access, what: str, trashed: bool) -> nodes.Sight:
    access, deleted_us = access_of(caller, sight), sight.node.trashed_us
    was_deleted = deleted_us is not None and deleted_us > ENDED_US
    is_here = was_deleted if trashed else all(link.trashed_us is None for link in sight.chain)
    if access == Access.NONE or not is_here:
        raise not_found(f"there is nothing at {what}" if what.startswith("/") else f"there is no {what}")
    if access < need:
        if not caller.user_id:
            raise forbidden(f"{what} is public, and only users may change it", hint="log in")
        raise forbidden(
            f"you may not change {what}" if need == Access.EDIT else f"only its owner may do that to {what}"
        )
    return sight


def access_of(caller: Caller, sight: nodes.Sight) -> Access:
    """What the caller may do to a node that was looked at: in their own tree all, else what shares give them."""
    if caller.user_id and sight.chain[0].owner_id == caller.user_id:
        return Access.OWN
    access = Access.NONE
    for share in sight.shares:
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

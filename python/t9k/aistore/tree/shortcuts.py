"""Making shortcuts."""

from __future__ import annotations

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import nodes
from t9k.aistore.errors import invalid, not_found
from t9k.aistore.tree.access import Node, sight_for, target_of
from t9k.aistore.tree.names import join_path, split_path
from t9k.aistore.tree.placement import Placement, place


def make_shortcut(connection: nodes.Connection, caller: Caller, path: str, target_id: str) -> str:
    """Makes a shortcut to a node that the caller may see; to what that leads to if it is a shortcut. Answers its id.

    Raises:
        Refusal: The target is not there, or not for the caller to see (`not_found`); else as `tree.placement.place`.
    """
    *above, name = split_path(path)
    if not above:
        raise invalid(f"{path} is a user's tree, not a place in one", hint="use /user/name")
    target = followed(connection, caller, target_id)
    placed = place(connection, caller, Placement(join_path(above), name), "Shortcut", target_id=target.id)
    return placed.node_id


def followed(connection: nodes.Connection, caller: Caller, node_id: str) -> Node:
    """What a shortcut leads to, or the node itself if it is none.

    Raises:
        Refusal: The shortcut or its target is not there, or not for the caller to see (`not_found`).
    """
    sight = sight_for(connection, caller, node_id)
    target = target_of(connection, caller, sight)
    if target is None:
        raise not_found(f"the shortcut {sight.node.name} leads nowhere, or to what you may not see")
    return target.node

"""Changing a node: rename, move, labels, description; and moving a subtree to where it fits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t9k.aistore.accounts import audit
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import now_us
from t9k.aistore.db import nodes, subtrees
from t9k.aistore.errors import Refusal, conflict, forbidden, invalid
from t9k.aistore.tree.access import Access, Node, access_to, node_for
from t9k.aistore.tree.names import check_description, check_fits, check_labels, check_name
from t9k.aistore.tree.placement import taken


@dataclass(frozen=True)
class Change:
    """What of a node changes; None stays as it is.

    Attributes:
        name: Its new name.
        parent_id: The folder that it moves to.
        labels: All its labels.
        description: Its description.
        ignore_case: Of a folder: whether names in it that differ only in case are the same name.
    """

    name: str | None = None
    parent_id: str | None = None
    labels: Sequence[str] | None = None
    description: str | None = None
    ignore_case: bool | None = None


def change(
    connection: nodes.Connection, caller: Caller, node_id: str, wanted: Change, if_match: frozenset[int] | None = None
) -> None:
    """Changes a node, all or nothing.

    Args:
        connection: Of the transaction.
        caller: Who asks; they need to edit the node, and the folder that it moves to.
        node_id: Of the node.
        wanted: What changes.
        if_match: Versions of which the node must have one; None is any.

    Raises:
        Refusal: The node has another version (`conflict`, 412), its name is taken there (`conflict`), it would lie in
            itself or too deep (`invalid_input`), or the caller may not (`not_found`, `auth`).
    """
    node = node_for(connection, caller, node_id, Access.EDIT)
    check_version(node, if_match)
    values: dict[str, Any] = {}
    if wanted.name is not None or wanted.parent_id is not None:
        values |= relocated(connection, caller, node, wanted.parent_id, wanted.name)
    if wanted.description is not None:
        values["description"] = check_description(wanted.description)
    if wanted.ignore_case is not None and wanted.ignore_case != bool(node.ignore_case):
        _set_ignore_case(connection, node, wanted.ignore_case)
        values["ignore_case"] = wanted.ignore_case
    if wanted.labels is not None:
        nodes.set_labels(connection, node.id, check_labels(wanted.labels))
    nodes.update(connection, node.id, now_us(), **values)


def check_version(node: Node, if_match: frozenset[int] | None) -> None:
    """Refuses a change of another version than the caller has seen (412)."""
    if if_match is not None and node.version not in if_match:
        raise Refusal(
            "conflict",
            f"{node.name} has changed: it has version {node.version}",
            hint="get it again and decide anew",
            status=412,
        )


def relocated(
    connection: nodes.Connection, caller: Caller, node: Node, parent_id: str | None, name: str | None
) -> dict[str, Any]:
    """The columns of a node under another name or in another folder, once it is certain that it may lie there.

    A node that leaves its user's tree for another's is handed over with all below it, which only its owner may do.

    Raises:
        Refusal: As `change`.
    """
    if node.parent_id is None:
        raise conflict(f"{node.name} is a user's tree, which has its place and name from the user")
    name = node.name if name is None else check_name(name)
    moves = parent_id is not None and parent_id != node.parent_id
    if moves:
        assert parent_id is not None
        folder = node_for(connection, caller, parent_id, Access.EDIT)
    else:
        folder = nodes.by_id(connection, node.parent_id)
    if folder.kind != "Folder":
        raise conflict(f"{folder.name} is a {folder.kind}, not a Folder", hint="name a folder")
    there = nodes.child(connection, folder, name)
    if there is not None and there.id != node.id:
        raise taken(name, folder.name)
    above = list(reversed(nodes.ancestors(connection, folder.id)))
    if any(row.id == node.id for row in above):
        raise invalid(f"{node.name} cannot lie in itself")
    more = subtrees.folder_extent(connection, node.id) if node.kind == "Folder" else (0, 0)
    names = [*(row.name for row in above), name]
    check_fits(names, is_folder=node.kind == "Folder", more_depth=more[0], more_bytes=more[1])
    if folder.owner_id != node.owner_id:
        if access_to(connection, caller, node.id) < Access.OWN:
            raise forbidden(f"only its owner may move {node.name} to another user", hint="copy it")
        subtrees.set_owner(connection, node.id, folder.owner_id)
    if moves:
        audit.record(connection, caller, "node.move", node.id, {"from": node.parent_id, "to": folder.id})
    return {
        "parent_id": folder.id,
        "name": name,
        "name_key": nodes.name_key(name),
        "sibling_key": nodes.sibling_key(folder, name),
    }


def _set_ignore_case(connection: nodes.Connection, folder: Node, ignore_case: bool) -> None:
    if folder.kind != "Folder":
        raise invalid(f"{folder.name} is a {folder.kind}, and only a Folder ignores case")
    clash = subtrees.names_that_clash(connection, folder.id) if ignore_case else []
    if clash:
        raise conflict(f"{' and '.join(clash)} differ only in case", hint="rename one of them first")
    subtrees.set_sibling_keys(connection, folder.id, ignore_case=ignore_case)

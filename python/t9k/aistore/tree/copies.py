"""Copying a node with all below it."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import new_id, now_us
from t9k.aistore.db import nodes, subtrees
from t9k.aistore.errors import conflict, invalid
from t9k.aistore.tree.access import Access, Node, node_for
from t9k.aistore.tree.names import check_fits, check_name
from t9k.aistore.tree.placement import taken

MAX_COPIED = 10_000
"""Nodes of one copy, which is one transaction."""

Copier = Callable[[nodes.Connection, Caller, Mapping[str, str]], None]
"""Copies what some nodes hold beside their rows, given the ids of the copies by those of the originals."""


def copy(
    connection: nodes.Connection,
    caller: Caller,
    node_id: str,
    parent_id: str,
    copiers: Mapping[str, Copier | None],
    name: str | None = None,
) -> str:
    """Copies a node, its labels and description, and all below it, into a folder; answers the copy's id.

    Shares are not copied: a copy has the permissions of its new folder. What is copied into itself is copied as it was
    before. Shortcuts in the copy lead where the originals do. `copiers` has every kind that can be copied.

    Raises:
        Refusal: The name is taken there, or a node's kind cannot be copied (`conflict`); there are more than
            `MAX_COPIED` nodes, or they would lie too deep (`invalid_input`); or the caller may not (`not_found`,
            `auth`).
    """
    node = node_for(connection, caller, node_id)
    folder = node_for(connection, caller, parent_id, Access.EDIT)
    name = node.name if name is None else check_name(name)
    if node.parent_id is None:
        raise conflict(f"{node.name} is a user's tree, which is not copied as a whole", hint="copy the folders in it")
    if folder.kind != "Folder":
        raise conflict(f"{folder.name} is a {folder.kind}, not a Folder", hint="name a folder")
    if nodes.child(connection, folder, name) is not None:
        raise taken(name, folder.name)
    originals = _subtree(connection, node, copiers)
    more = subtrees.folder_extent(connection, node.id) if node.kind == "Folder" else (0, 0)
    names = [row.name for row in reversed(nodes.ancestors(connection, folder.id))]
    check_fits([*names, name], is_folder=node.kind == "Folder", more_depth=more[0], more_bytes=more[1])
    new_ids = {original.id: new_id() for original in originals}
    rows = [_copied(original, new_ids, folder.owner_id) for original in originals]
    top = {"parent_id": folder.id, "name": name, "name_key": nodes.name_key(name)}
    rows[0] |= top | {"sibling_key": nodes.sibling_key(folder, name)}
    subtrees.insert_copies(connection, rows, new_ids)
    for kind in {original.kind for original in originals}:
        copier = copiers[kind]
        if copier is not None:
            copier(connection, caller, {row.id: new_ids[row.id] for row in originals if row.kind == kind})
    return new_ids[node.id]


def _subtree(connection: nodes.Connection, node: Node, kinds: Container[str]) -> Sequence[Node]:
    """The node and all below it that is not in the trash, parents before children."""
    found, level = [node], [node]
    while level:
        folders = [row.id for row in level if row.kind == "Folder"]
        level = subtrees.children_of(connection, folders, MAX_COPIED + 1 - len(found))
        found += level
        if len(found) > MAX_COPIED:
            raise invalid(f"{node.name} has more than {MAX_COPIED} nodes", hint="copy the folders in it one by one")
    for row in found:
        if row.kind not in kinds:
            raise conflict(f"{row.name} is a {row.kind}, which cannot be copied", hint="make a shortcut to it")
    return found


def _copied(original: Node, new_ids: dict[str, str], owner_id: str) -> dict[str, Any]:
    now = now_us()
    return {
        **original._mapping,
        "id": new_ids[original.id],
        "parent_id": new_ids.get(original.parent_id),
        "owner_id": owner_id,
        "version": 1,
        "created_us": now,
        "changed_us": now,
    }

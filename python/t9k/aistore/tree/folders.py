"""Making folders."""

from __future__ import annotations

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import nodes
from t9k.aistore.errors import invalid
from t9k.aistore.tree.names import join_path, split_path
from t9k.aistore.tree.placement import Placed, add_node, folder_at, taken


def make_folder(
    connection: nodes.Connection, caller: Caller, path: str, *, parents: bool = False, ignore_case: bool | None = None
) -> Placed:
    """Makes a folder.

    Args:
        connection: Of the transaction.
        caller: Who asks.
        path: Absolute path of the folder.
        parents: Make those above it too, and answer the folder that is there already.
        ignore_case: Whether names in it that differ only in case are the same name; None is as in its parent.

    Raises:
        Refusal: As `tree.placement.place`.
    """
    *above, name = split_path(path)
    if not above:
        raise invalid(f"{path} is a user's tree, not a folder in one", hint="an administrator adds users")
    where = join_path(above)
    folder = folder_at(connection, caller, where, make=parents)
    there = nodes.child(connection, folder, name)
    if there is not None:
        if parents and there.kind == "Folder":
            return Placed(there.id, created=False)
        raise taken(name, where)
    return Placed(add_node(connection, folder, "Folder", name, ignore_case=ignore_case), created=True)

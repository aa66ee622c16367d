"""Where a new node goes, and what happens if its name is taken: decided in the transaction that makes it."""

from __future__ import annotations

from dataclasses import dataclass

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import now_us
from t9k.aistore.db import nodes
from t9k.aistore.errors import Refusal, conflict, invalid, not_found
from t9k.aistore.tree.access import Access, Node, check_access, target_of, walk
from t9k.aistore.tree.names import check_fits, check_name
from t9k.protocol import CONFLICT_STRATEGIES


@dataclass(frozen=True)
class Placement:
    """Where a caller wants a node.

    Attributes:
        folder: Absolute path of the folder.
        name: The node's name.
        alternative_name: What it is called where `name` is taken, with the strategy ``new``.
        make_folder: Make the folder, and those above it, if it is missing.
        conflict_strategy: What to do if the name is taken: ``skip``, ``error``, ``new`` or ``replace``.
    """

    folder: str
    name: str
    alternative_name: str | None = None
    make_folder: bool = False
    conflict_strategy: str = "error"


@dataclass(frozen=True)
class Placed:
    """The node that is there now, and whether this made it; with ``skip`` it may be an older one."""

    node_id: str
    created: bool


def place(
    connection: nodes.Connection, caller: Caller, placement: Placement, kind: str, *, target_id: str | None = None
) -> Placed:
    """Makes an empty node of a kind, or answers the one that is there.

    ``skip`` and ``replace`` mean a node of the same kind: one of another kind is never taken for it nor thrown away.

    Raises:
        Refusal: The folder is not there, or not for the caller to see (`not_found`); the caller may not change it
            (`auth`); the name is taken and the strategy has no way out (`conflict`); a name cannot be one
            (`invalid_input`).
    """
    strategy, name = placement.conflict_strategy, check_name(placement.name)
    if strategy not in CONFLICT_STRATEGIES:
        raise invalid(f"{strategy[:40]!r} is no conflict strategy", hint=f"use one of {', '.join(CONFLICT_STRATEGIES)}")
    if strategy == "new" and placement.alternative_name is None:
        raise invalid("the conflict strategy new takes an alternative name")
    alternative = None if placement.alternative_name is None else check_name(placement.alternative_name)
    folder = folder_at(connection, caller, placement.folder, make=placement.make_folder)
    there = nodes.child(connection, folder, name)
    if there is not None:
        if strategy == "error":
            raise taken(name, placement.folder)
        if strategy == "new":
            assert alternative is not None
            name = alternative
            if nodes.child(connection, folder, name) is not None:
                raise taken(name, placement.folder)
        elif there.kind != kind:
            raise conflict(f"{name} in {placement.folder} is a {there.kind}, not a {kind}", hint="use another name")
        elif strategy == "skip":
            return Placed(there.id, created=False)
        else:
            nodes.trash(connection, there.id, now_us())
    made = add_node(connection, folder, kind, name, alternative_name=alternative, target_id=target_id)
    return Placed(made, created=True)


def taken(name: str, where: str) -> Refusal:
    """The refusal of a name that is taken."""
    return conflict(f"there is a {name} in {where} already", hint="use another name, or another conflict strategy")


def folder_at(connection: nodes.Connection, caller: Caller, path: str, *, make: bool = False) -> Node:
    """The folder at a path, which the caller may change; what is missing of it is made with `make`.

    Raises:
        Refusal: As `place`.
    """
    sight, missing = walk(connection, caller, path)
    sight = sight and target_of(connection, caller, sight)
    if sight is None:
        raise not_found(f"there is no folder {path}")
    node: Node = check_access(caller, sight, Access.VIEW if missing and not make else Access.EDIT, path).node
    if missing and not make:
        raise not_found(f"there is no folder {path}", hint="make it first, or ask for it to be made")
    if node.kind != "Folder":
        raise conflict(f"{node.name} on the way of {path} is a {node.kind}, not a Folder", hint="use another path")
    for name in missing:
        made = add_node(connection, node, "Folder", name)
        node = nodes.by_id(connection, made)
    return node


def add_node(
    connection: nodes.Connection,
    folder: Node,
    kind: str,
    name: str,
    *,
    alternative_name: str | None = None,
    target_id: str | None = None,
    ignore_case: bool | None = None,
) -> str:
    """Makes a node under a free and checked name; answers its id. A new folder ignores case if its parent does.

    Raises:
        Refusal: It would lie too deep (`invalid_input`).
    """
    above = [row.name for row in reversed(nodes.ancestors(connection, folder.id))]
    check_fits([*above, name], is_folder=kind == "Folder")
    new = nodes.NewNode(
        parent_id=folder.id,
        owner_id=folder.owner_id,
        kind=kind,
        name=name,
        alternative_name=alternative_name,
        target_id=target_id,
        ignore_case=kind == "Folder" and (folder.ignore_case if ignore_case is None else ignore_case),
        sibling_key=nodes.sibling_key(folder, name),
    )
    return nodes.insert(connection, new, now_us())

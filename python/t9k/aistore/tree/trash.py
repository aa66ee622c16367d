"""The trash: what was deleted can be restored, until it expires.

Deleting marks one row, whatever lies below it. What was deleted on its own before keeps its own place in the trash, and
goes for good with what it lies in.
"""

from __future__ import annotations

from collections.abc import Callable

from t9k.aistore.accounts import audit
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, listing, nodes, subtrees
from t9k.aistore.errors import conflict, invalid
from t9k.aistore.tree.access import Access, node_for
from t9k.aistore.tree.changes import check_version, relocated
from t9k.aistore.tree.listing import Page, decode_cursor, encode_cursor
from t9k.aistore.tree.views import views
from t9k.protocol import MAX_PAGE

REMOVED_AT_ONCE = 500
"""Nodes that one transaction of the background removes, so that no request waits long for it."""

EMPTY_TRASH = "empty-trash"
"""The job that calls `expire`; a purge wakes it."""

DAY_US = 86_400_000_000


def delete(connection: nodes.Connection, caller: Caller, node_id: str, if_match: frozenset[int] | None = None) -> None:
    """Puts a node into the trash of the tree that it is in, with all below it.

    Raises:
        Refusal: The node has another version (`conflict`, 412), is a user's root (`conflict`), or the caller may not
            (`not_found`, `auth`).
    """
    node = node_for(connection, caller, node_id, Access.EDIT)
    check_version(node, if_match)
    if node.parent_id is None:
        raise conflict(f"{node.name} is a user's tree, which cannot be deleted", hint="an administrator disables users")
    nodes.trash(connection, node.id, now_us())


def trash_page(connection: nodes.Connection, caller: Caller, *, limit: int = 100, cursor: str | None = None) -> Page:
    """A page of what was deleted from the caller's tree, the latest first.

    Raises:
        Refusal: The cursor is of another listing (`invalid_input`).
    """
    if not 1 <= limit <= MAX_PAGE:
        raise invalid(f"a page has 1 to {MAX_PAGE} nodes")
    after = None if cursor is None else decode_cursor(cursor, "trash", (int, str))
    rows = listing.trashed(connection, caller.user_id, after, limit + 1)
    page, has_more = rows[:limit], len(rows) > limit
    following = encode_cursor("trash", [page[-1].trashed_us, page[-1].id]) if has_more else None
    return Page(views(connection, caller, page), following)


def restore(
    connection: nodes.Connection,
    caller: Caller,
    node_id: str,
    *,
    parent_id: str | None = None,
    name: str | None = None,
) -> None:
    """Takes a node out of the trash, to where it was or to another folder or name.

    Raises:
        Refusal: Its name is taken meanwhile, or its folder is in the trash (`conflict`); else as `tree.changes.change`.
    """
    node = node_for(connection, caller, node_id, Access.EDIT, trashed=True)
    if parent_id is None and any(row.trashed_us is not None for row in nodes.ancestors(connection, node.parent_id)):
        raise conflict(
            f"the folder that {node.name} was in is in the trash too", hint="restore that first, or name a folder"
        )
    values = relocated(connection, caller, node, parent_id, name)
    nodes.update(connection, node.id, now_us(), trashed_us=None, **values)


def purge(connection: nodes.Connection, caller: Caller, node_id: str) -> None:
    """Deletes a node in the trash for good; only its owner may.

    Raises:
        Refusal: It is not there (`not_found`), or the caller is not its owner (`auth`).
    """
    node = node_for(connection, caller, node_id, Access.OWN, trashed=True)
    subtrees.end(connection, node.id)
    audit.record(connection, caller, "node.purge", node.id, {"name": node.name})


def expire(database: Database, trash_days: int, *, is_stopping: Callable[[], bool] = lambda: False) -> int:
    """Removes what has been in the trash for more than `trash_days`, and what was deleted for good.

    Every piece is a transaction of its own, so this may be stopped or killed at any time, and run by several at once.

    Returns:
        Number of transactions that removed something.
    """
    before_us = now_us() - trash_days * DAY_US
    while database.write(lambda connection: subtrees.end_older(connection, before_us, REMOVED_AT_ONCE)):
        pass
    steps = 0
    while not is_stopping():
        if not database.write(lambda connection: subtrees.remove_ended(connection, REMOVED_AT_ONCE)):
            break
        steps += 1
    return steps

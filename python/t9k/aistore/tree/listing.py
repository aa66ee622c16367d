"""Pages of a folder."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import listing, nodes
from t9k.aistore.errors import conflict, invalid
from t9k.aistore.tree.access import sight_for, target_of
from t9k.aistore.tree.query import parse_filter
from t9k.aistore.tree.views import NodeView, views
from t9k.protocol import MAX_PAGE

SORTS = tuple(listing.ORDERS)


@dataclass(frozen=True)
class Page:
    """A part of a listing, and the cursor of the next; None at the end."""

    nodes: list[NodeView]
    next: str | None


def children(
    connection: nodes.Connection,
    caller: Caller,
    folder_id: str,
    *,
    sort: str = "name",
    descending: bool = False,
    wanted: str | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> Page:
    """A page of a folder, or of the folder that a shortcut leads to; of the nodes that a filter takes, if given.

    A page follows the last node of the one before, whatever is added or removed meanwhile: nothing that stays is left
    out or shown twice.

    Raises:
        Refusal: It is not there (`not_found`), is no folder (`conflict`), the cursor is of another listing, or
            the filter cannot be read (`invalid_input`).
    """
    if sort not in SORTS:
        raise invalid(f"{sort[:40]!r} is no order", hint=f"use one of {', '.join(SORTS)}")
    if not 1 <= limit <= MAX_PAGE:
        raise invalid(f"a page has 1 to {MAX_PAGE} nodes")
    sight = target_of(connection, caller, sight_for(connection, caller, folder_id))
    if sight is None:
        raise conflict("the shortcut leads nowhere, or to what you may not see")
    folder = sight.node
    if folder.kind != "Folder":
        raise conflict(f"{folder.name} is a {folder.kind}, not a Folder")
    listed = f"{sort}{'-' if descending else ''}"
    after = None if cursor is None else decode_cursor(cursor, listed, ORDER_TYPES[sort])
    rows = listing.children(
        connection,
        folder.id,
        sort,
        descending=descending,
        after=after,
        limit=limit + 1,
        wanted=None if wanted is None else parse_filter(wanted),
    )
    has_more = len(rows) > limit
    rows = rows[:limit]
    following = encode_cursor(listed, listing.order_values(rows[-1], sort)) if has_more else None
    return Page(views(connection, caller, rows), following)


ORDER_TYPES: dict[str, tuple[type, ...]] = {
    "name": (str, str),
    "created": (int, str),
    "changed": (int, str),
    "kind": (str, str, str),
}


def encode_cursor(listed: str, values: list[Any]) -> str:
    """A cursor: which listing it is of, and what the next page follows. It holds nothing that the page did not show."""
    return base64.urlsafe_b64encode(json.dumps([listed, *values]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, listed: str, types: tuple[type, ...]) -> list[Any]:
    """What `encode_cursor` was given.

    Raises:
        Refusal: It is none, or of another listing (`invalid_input`).
    """
    try:
        document = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        document = None
    is_right = (
        isinstance(document, list)
        and document[:1] == [listed]
        and [type(value) for value in document[1:]] == list(types)
        and all(_can_be_bound(value) for value in document[1:])
    )
    if not is_right:
        raise invalid(
            "that is no cursor of this listing", hint="take `next` of the page before, and change nothing else"
        )
    assert isinstance(document, list)
    return document[1:]


def _can_be_bound(value: Any) -> bool:
    """Whether both databases take it: a 64-bit number, or text without NUL and lone surrogates."""
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= char <= "\udfff" for char in value)
    return bool(-(1 << 63) <= value < 1 << 63)

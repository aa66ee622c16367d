"""Sharing: a user, a group or the public may view or edit a node and all below it."""

from __future__ import annotations

from dataclasses import dataclass

from t9k.aistore.accounts import audit
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import now_us
from t9k.aistore.db import accounts, nodes, sharing
from t9k.aistore.errors import invalid, not_found
from t9k.aistore.tree.access import Access, Node, node_for
from t9k.aistore.tree.listing import Page, decode_cursor, encode_cursor
from t9k.aistore.tree.views import views
from t9k.protocol import MAX_PAGE

EVERYBODY = "everybody"
"""The name of the grantee of kind ``public``."""

MAX_SHARES = 1000
"""Shares of one node."""


@dataclass(frozen=True)
class Share:
    """Who may do what to a node, by a share of the node itself or of one above it."""

    grantee_kind: str
    grantee: str
    access: str
    node_id: str
    created_us: int


def shares_of(connection: nodes.Connection, caller: Caller, node_id: str) -> list[Share]:
    """The shares that reach a node, its own first. Only its owner is told."""
    node = node_for(connection, caller, node_id, Access.OWN)
    chain = [row.id for row in nodes.ancestors(connection, node.id)]
    found = sharing.named(connection, chain)
    shares = [Share(row.grantee_kind, row.name or EVERYBODY, row.access, row.node_id, row.created_us) for row in found]
    return sorted(shares, key=lambda share: (chain.index(share.node_id), share.grantee_kind, share.grantee))


def grant(
    connection: nodes.Connection, caller: Caller, node_id: str, grantee_kind: str, grantee: str, access: str
) -> None:
    """Shares a node, or changes how it is shared. Only its owner may.

    Raises:
        Refusal: There is no such user or group (`not_found`), or the node has too many shares (`invalid_input`).
    """
    node = node_for(connection, caller, node_id, Access.OWN)
    if access not in ("view", "edit"):
        raise invalid(f"{access[:40]!r} is no access", hint="use view or edit")
    grantee_id = _grantee_id(connection, grantee_kind, grantee)
    is_new = sharing.remove(connection, node.id, grantee_kind, grantee_id) is None
    if is_new and len(nodes.shares_of(connection, [node.id])) >= MAX_SHARES:
        raise invalid(f"{node.name} has {MAX_SHARES} shares already", hint="share it with a group")
    sharing.add(connection, node.id, grantee_kind, grantee_id, access, now_us())
    detail = {"grantee_kind": grantee_kind, "grantee": grantee, "access": access}
    audit.record(connection, caller, "share.grant", node.id, detail)


def revoke(connection: nodes.Connection, caller: Caller, node_id: str, grantee_kind: str, grantee: str) -> None:
    """Ends a share of the node itself. Only its owner may.

    Raises:
        Refusal: It is not shared so (`not_found`).
    """
    node = node_for(connection, caller, node_id, Access.OWN)
    grantee_id = _grantee_id(connection, grantee_kind, grantee)
    if sharing.remove(connection, node.id, grantee_kind, grantee_id) is None:
        raise not_found(f"{node.name} itself is not shared with {grantee_kind} {grantee}")
    detail = {"grantee_kind": grantee_kind, "grantee": grantee}
    audit.record(connection, caller, "share.revoke", node.id, detail)


def shared_with(connection: nodes.Connection, caller: Caller, *, limit: int = 100, cursor: str | None = None) -> Page:
    """A page of what others share with the caller or their groups, the newest node first.

    What is shared with the public only is not listed: it is found by its path.

    Raises:
        Refusal: The cursor is of another listing (`invalid_input`).
    """
    if not 1 <= limit <= MAX_PAGE:
        raise invalid(f"a page has 1 to {MAX_PAGE} nodes")
    after: str | None = None if cursor is None else decode_cursor(cursor, "shared", (str,))[0]
    groups = sorted(caller.groups)
    page: list[Node] = []
    while len(page) <= limit:
        found = sharing.shared_with(connection, caller.user_id, groups, after, limit + 1)
        chains = nodes.chains(connection, [node.id for node in found])
        page += [node for node in found if all(row.trashed_us is None for row in chains[node.id])]
        if len(found) <= limit:
            break
        after = found[-1].id
    page, has_more = page[:limit], len(page) > limit
    return Page(views(connection, caller, page), encode_cursor("shared", [page[-1].id]) if has_more else None)


def _grantee_id(connection: nodes.Connection, grantee_kind: str, grantee: str) -> str:
    if grantee_kind == "public":
        if grantee != EVERYBODY:
            raise not_found(f"the public is {EVERYBODY!r}, not {grantee[:80]!r}")
        return ""
    if grantee_kind == "user":
        found = accounts.user_by_name(connection, grantee)
    elif grantee_kind == "group":
        found = accounts.group_by_name(connection, grantee)
    else:
        raise invalid(f"nothing is shared with a {grantee_kind[:40]!r}", hint="use user, group or public")
    if found is None:
        raise not_found(f"there is no {grantee_kind} {grantee[:80]!r}")
    return str(found.id)

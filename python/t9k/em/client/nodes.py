"""The requests of `docs/protocol.md` about the tree of nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from t9k.em.client.session import Session
from t9k.em.errors import TransferError
from t9k.protocol import MAX_PAGE

MAX_PAGE_BYTES = 64 << 20
EVERYBODY = "everybody"
"""Whoever reaches the server, with a key or without."""


@dataclass(frozen=True)
class Node:
    """A node of the server's tree: Folder, Shortcut, Run or Artifact."""

    id: str
    kind: str
    path: str
    name: str


def node_of(document: Any, what: str) -> Node:
    """The node in an answer."""
    fields = [document.get(name) if isinstance(document, dict) else None for name in ("id", "kind", "path", "name")]
    if not all(isinstance(field, str) and field for field in fields):
        raise TransferError(f"{what}: the server's answer has another form")
    return Node(*map(str, fields))


def find(session: Session, path: str, *, follow: bool = False) -> Node | None:
    """The node at `/<user>/…`, or what a shortcut there leads to; None if there is none that the caller may see."""
    what = f"cannot look for {path!r} at {session.url}"
    params = {"path": path, "follow": str(follow).lower()}
    answer = session.request("GET", "/nodes", what, params=params, accept={404})
    return None if answer.status == 404 else node_of(answer.json(), what)


def is_there(session: Session, node_id: str) -> bool:
    """Whether there is such a node that the caller may see."""
    what = f"cannot look for node {node_id} at {session.url}"
    return session.request("GET", f"/nodes/{node_id}", what, accept={404}).status != 404


def children(session: Session, node: Node) -> Iterator[Node]:
    """What lies directly in a folder, page by page."""
    yield from _pages(session, f"/nodes/{node.id}/children", f"cannot list {node.path!r} at {session.url}")


def shared(session: Session) -> Iterator[Node]:
    """What others share with the user and their groups, page by page."""
    yield from _pages(session, "/shared", f"cannot list what is shared at {session.url}")


def _pages(session: Session, url: str, what: str) -> Iterator[Node]:
    params: dict[str, str | int] = {"limit": MAX_PAGE}
    while True:
        document = session.request("GET", url, what, params=params, max_bytes=MAX_PAGE_BYTES).json()
        items = document.get("nodes") if isinstance(document, dict) else None
        if not isinstance(items, list):
            raise TransferError(f"{what}: the server's answer has another form")
        yield from (node_of(item, what) for item in items)
        cursor = document.get("next")
        if not isinstance(cursor, str):
            return
        params["cursor"] = cursor


def runs_of(session: Session, node: str, path: str) -> list[tuple[str, Node]]:
    """The runs that have an artifact as an ``input`` or ``output``, as far as the caller may see."""
    what = f"cannot look for the runs of {path!r} at {session.url}"
    document = session.request("GET", f"/nodes/{node}/lineage", what, params={"direction": "both", "depth": 1}).json()
    try:
        seen = {one["key"]: one["node"] for one in document["nodes"] if one["node"] is not None}
        links = [(str(link["side"]), seen[link["run"]]) for link in document["links"] if link["run"] in seen]
    except (KeyError, TypeError):
        raise TransferError(f"{what}: the server's answer has another form") from None
    return [(side, node_of(run, what)) for side, run in links]


def make_folder(session: Session, path: str) -> Node:
    """The folder at `/<user>/…`, made now with those above it if it is missing."""
    what = f"cannot make the folder {path!r} at {session.url}"
    answer = session.request("POST", "/folders", what, json={"path": path, "parents": True}, repeat=True)
    return node_of(answer.json(), what)


def share(session: Session, node: Node, grantee: str, access: str) -> None:
    """Lets a user, `group:<name>` or `everybody` `view` or `edit` a node and all below it."""
    what = f"cannot share {node.path!r} with {grantee!r}"
    session.request("PUT", _share_path(node, grantee), what, json={"access": access})


def unshare(session: Session, node: Node, grantee: str) -> None:
    """Ends a share of the node itself."""
    session.request("DELETE", _share_path(node, grantee), f"cannot end the share of {node.path!r} with {grantee!r}")


def shares(session: Session, node: Node) -> dict[str, str]:
    """Who may `view` or `edit` a node by its shares and those of the folders above it."""
    what = f"cannot ask with whom {node.path!r} is shared"
    document = session.request("GET", f"/nodes/{node.id}/shares", what).json()
    found: dict[str, str] = {}
    try:
        for row in document["shares"]:
            name = f"group:{row['grantee']}" if row["grantee_kind"] == "group" else str(row["grantee"])
            if found.get(name) != "edit":
                found[name] = str(row["access"])
    except (KeyError, TypeError):
        raise TransferError(f"{what}: the server's answer has another form") from None
    return found


def _share_path(node: Node, grantee: str) -> str:
    kind, _, name = grantee.rpartition(":")
    if grantee == EVERYBODY:
        kind = "public"
    return f"/nodes/{node.id}/shares/{quote(kind or 'user', safe='')}/{quote(name, safe='')}"

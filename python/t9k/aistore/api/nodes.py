"""Routes of nodes and folders."""

from __future__ import annotations

import re
from asyncio import wrap_future
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import Field
from sqlalchemy.engine import Connection

from t9k.aistore.api.context import AnyCaller, ServicesDep, Strict, Writer
from t9k.aistore.api.problems import responses
from t9k.aistore.clock import iso
from t9k.aistore.contents import COPIERS
from t9k.aistore.errors import invalid
from t9k.aistore.tree import changes, copies, folders, listing, shortcuts, trash
from t9k.aistore.tree.access import sight_at, sight_for
from t9k.aistore.tree.placement import Placement
from t9k.aistore.tree.query import MAX_FILTER_CHARS
from t9k.aistore.tree.views import NodeView, view, view_of
from t9k.protocol import CONFLICT_STRATEGIES, MAX_PAGE, MAX_PATH_BYTES

router = APIRouter(tags=["tree"])

GivenId = Annotated[str, Field(pattern="^[0-9a-z]{20}$", description="Id of a node.")]
NodeId = Annotated[str, Path(pattern="^[0-9a-z]{20}$", description="Id of a node.")]
NodePath = Annotated[str, Query(max_length=MAX_PATH_BYTES, description="Absolute path, `/user/folder/name`.")]
Cursor = Annotated[str | None, Query(max_length=4096, description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most nodes in the answer.")]
Strategy = Literal["skip", "error", "new", "replace"]
assert set(CONFLICT_STRATEGIES) == set(Strategy.__args__)  # type: ignore[attr-defined]


class Node(Strict):
    """A node, as the caller sees it."""

    id: str
    kind: str
    path: str
    name: str
    parent_id: str | None
    owner: str
    access: Literal["view", "edit", "own"]
    labels: list[str]
    description: str
    target_id: str | None
    ignore_case: bool
    version: int
    created: str
    changed: str
    trashed: str | None


class NodePage(Strict):
    """A part of a listing."""

    nodes: list[Node]
    next: str | None


class NodeChange(Strict):
    """What of a node changes; what is left out stays."""

    name: str | None = None
    parent_id: GivenId | None = None
    labels: list[str] | None = None
    description: str | None = None
    ignore_case: bool | None = None


class NewCopy(Strict):
    """Where a copy goes; without a name it keeps the original's."""

    parent_id: GivenId
    name: str | None = None


class NewShortcut(Strict):
    """A shortcut to be made."""

    path: str
    target_id: GivenId


class NewFolder(Strict):
    """A folder to be made."""

    path: str
    parents: bool = False
    ignore_case: bool | None = None


class PlacementBody(Strict):
    """Where a new node goes, and what happens if its name is taken."""

    folder: str
    name: str
    alternative_name: str | None = None
    make_folder: bool = False
    conflict_strategy: Strategy = "error"

    def placement(self) -> Placement:
        """For the rules."""
        return Placement(**self.model_dump(include=set(PlacementBody.model_fields)))


def node_model(seen: NodeView) -> Node:
    """A node for an answer."""
    return Node(
        id=seen.id,
        kind=seen.kind,
        path=seen.path,
        name=seen.name,
        parent_id=seen.parent_id,
        owner=seen.owner,
        access=seen.access.name.lower(),  # type: ignore[arg-type]
        labels=seen.labels,
        description=seen.description,
        target_id=seen.target_id,
        ignore_case=seen.ignore_case,
        version=seen.version,
        created=iso(seen.created_us) or "",
        changed=iso(seen.changed_us) or "",
        trashed=iso(seen.trashed_us),
    )


def answer(response: Response, seen: NodeView) -> Node:
    """A node as the whole answer, with its ETag."""
    response.headers["ETag"] = f'"{seen.version}"'
    return node_model(seen)


def if_match_versions(
    if_match: Annotated[str | None, Header(max_length=400, description="ETags, one of them the node's.")] = None,
) -> frozenset[int] | None:
    """The versions that `If-Match` names; None is any. A weak tag matches nothing."""
    if if_match is None or if_match.strip() == "*":
        return None
    tags = [tag.strip() for tag in if_match.split(",")]
    if not all(_ETAG.fullmatch(tag) for tag in tags):
        raise invalid("If-Match has no list of ETags", hint='send the ETag as it came, like "3"')
    return frozenset(int(tag[1:-1]) for tag in tags if _OUR_ETAG.fullmatch(tag))


_ETAG = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_OUR_ETAG = re.compile(r'"[0-9]{1,10}"')

IfMatch = Annotated[frozenset[int] | None, Depends(if_match_versions)]


@router.get("/nodes", responses=responses())
async def get_node_at(
    caller: AnyCaller, services: ServicesDep, response: Response, path: NodePath, follow: bool = False
) -> Node:
    """Get the node at a path; `follow` a shortcut at its end too."""
    seen = services.database.read_together(
        lambda connection: view(connection, caller, sight_at(connection, caller, path, follow=follow))
    )
    return answer(response, await wrap_future(seen))


@router.get("/nodes/{node_id}", responses=responses())
async def get_node(caller: AnyCaller, services: ServicesDep, response: Response, node_id: NodeId) -> Node:
    """Get a node."""
    seen = services.database.read_together(
        lambda connection: view(connection, caller, sight_for(connection, caller, node_id))
    )
    return answer(response, await wrap_future(seen))


@router.get("/nodes/{node_id}/children", responses=responses(409))
def list_children(
    caller: AnyCaller,
    services: ServicesDep,
    node_id: NodeId,
    sort: Literal["name", "created", "changed", "kind"] = "name",
    order: Literal["asc", "desc"] = "asc",
    wanted: Annotated[str | None, Query(alias="filter", max_length=MAX_FILTER_CHARS)] = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> NodePage:
    """List a folder; `filter` as in `docs/protocol.md`."""
    page = services.database.read(
        lambda connection: listing.children(
            connection,
            caller,
            node_id,
            sort=sort,
            descending=order == "desc",
            wanted=wanted,
            limit=limit,
            cursor=cursor,
        )
    )
    return NodePage(nodes=[node_model(seen) for seen in page.nodes], next=page.next)


@router.get("/nodes/{node_id}/target", responses=responses())
async def get_target(caller: AnyCaller, services: ServicesDep, response: Response, node_id: NodeId) -> Node:
    """Get what a shortcut leads to, with the caller's own rights."""
    seen = services.database.read_together(
        lambda connection: view_of(connection, caller, shortcuts.followed(connection, caller, node_id).id)
    )
    return answer(response, await wrap_future(seen))


@router.patch("/nodes/{node_id}", responses=responses(409, 412))
def patch_node(
    caller: Writer, services: ServicesDep, response: Response, node_id: NodeId, if_match: IfMatch, body: NodeChange
) -> Node:
    """Rename, move, label or describe a node."""

    def work(connection: Connection) -> NodeView:
        changes.change(connection, caller, node_id, changes.Change(**body.model_dump()), if_match)
        return view_of(connection, caller, node_id)

    return answer(response, services.database.write(work))


@router.delete("/nodes/{node_id}", status_code=204, responses=responses(409, 412))
def delete_node(caller: Writer, services: ServicesDep, node_id: NodeId, if_match: IfMatch) -> None:
    """Put a node into the trash, with all below it."""
    services.database.write(lambda connection: trash.delete(connection, caller, node_id, if_match))


@router.post("/nodes/{node_id}/copy", status_code=201, responses=responses(409))
def copy_node(caller: Writer, services: ServicesDep, response: Response, node_id: NodeId, body: NewCopy) -> Node:
    """Copy a node into a folder, with all below it."""

    def work(connection: Connection) -> NodeView:
        return view_of(connection, caller, copies.copy(connection, caller, node_id, body.parent_id, COPIERS, body.name))

    return answer(response, services.database.write(work))


@router.post("/shortcuts", status_code=201, responses=responses(409))
def post_shortcut(caller: Writer, services: ServicesDep, response: Response, body: NewShortcut) -> Node:
    """Make a shortcut."""

    def work(connection: Connection) -> NodeView:
        return view_of(connection, caller, shortcuts.make_shortcut(connection, caller, body.path, body.target_id))

    return answer(response, services.database.write(work))


@router.post("/folders", status_code=201, responses={200: {"model": Node}, **responses(409)})
def post_folder(caller: Writer, services: ServicesDep, response: Response, body: NewFolder) -> Node:
    """Make a folder; with `parents` also those above it, and one that is there already is the answer."""

    def work(connection: Connection) -> tuple[NodeView, bool]:
        placed = folders.make_folder(connection, caller, body.path, parents=body.parents, ignore_case=body.ignore_case)
        return view_of(connection, caller, placed.node_id), placed.created

    seen, is_new = services.database.write(work)
    response.status_code = 201 if is_new else 200
    return answer(response, seen)

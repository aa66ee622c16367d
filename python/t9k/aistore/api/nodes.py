"""Routes of nodes and folders."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy.engine import Connection

from t9k.aistore.api.context import AnyCaller, ServicesDep, Strict, Writer
from t9k.aistore.api.problems import responses
from t9k.aistore.clock import iso
from t9k.aistore.tree import folders, listing
from t9k.aistore.tree.access import node_at, node_for
from t9k.aistore.tree.placement import Placement
from t9k.aistore.tree.views import NodeView, view, view_of
from t9k.protocol import CONFLICT_STRATEGIES, MAX_PAGE, MAX_PATH_BYTES

router = APIRouter(tags=["tree"])

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


@router.get("/nodes", responses=responses())
def get_node_at(
    caller: AnyCaller, services: ServicesDep, response: Response, path: NodePath, follow: bool = False
) -> Node:
    """Get the node at a path; `follow` a shortcut at its end too."""
    seen = services.database.read(
        lambda connection: view(connection, caller, node_at(connection, caller, path, follow=follow))
    )
    return answer(response, seen)


@router.get("/nodes/{node_id}", responses=responses())
def get_node(caller: AnyCaller, services: ServicesDep, response: Response, node_id: NodeId) -> Node:
    """Get a node."""
    seen = services.database.read(lambda connection: view(connection, caller, node_for(connection, caller, node_id)))
    return answer(response, seen)


@router.get("/nodes/{node_id}/children", responses=responses(409))
def list_children(
    caller: AnyCaller,
    services: ServicesDep,
    node_id: NodeId,
    sort: Literal["name", "created", "changed", "kind"] = "name",
    order: Literal["asc", "desc"] = "asc",
    limit: Limit = 100,
    cursor: Cursor = None,
) -> NodePage:
    """List a folder."""
    page = services.database.read(
        lambda connection: listing.children(
            connection, caller, node_id, sort=sort, descending=order == "desc", limit=limit, cursor=cursor
        )
    )
    return NodePage(nodes=[node_model(seen) for seen in page.nodes], next=page.next)


@router.post("/folders", status_code=201, responses={200: {"model": Node}, **responses(409)})
def post_folder(caller: Writer, services: ServicesDep, response: Response, body: NewFolder) -> Node:
    """Make a folder; with `parents` also those above it, and one that is there already is the answer."""

    def work(connection: Connection) -> tuple[NodeView, bool]:
        placed = folders.make_folder(connection, caller, body.path, parents=body.parents, ignore_case=body.ignore_case)
        return view_of(connection, caller, placed.node_id), placed.created

    seen, is_new = services.database.write(work)
    response.status_code = 201 if is_new else 200
    return answer(response, seen)

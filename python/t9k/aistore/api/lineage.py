"""Route of lineage: what a node came from, and what came from it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from t9k.aistore.api.context import AnyCaller, ServicesDep, Strict
from t9k.aistore.api.nodes import Node, NodeId, node_model
from t9k.aistore.api.problems import responses
from t9k.aistore.runs import lineage

router = APIRouter(tags=["runs"])


class LineageNode(Strict):
    """A node that the caller may see, or what is in no tree of this server (`type`, `name`), or neither: hidden."""

    key: str
    node: Node | None = None
    type: str | None = None
    name: str | None = None


class LineageLink(Strict):
    """A run has the target as an input or output. Both are keys of nodes."""

    run: str
    side: Literal["input", "output"]
    target: str


class Lineage(Strict):
    """Nodes and links around a node; there are more if it is `truncated`."""

    root: str
    nodes: list[LineageNode]
    links: Annotated[list[LineageLink], Field(max_length=lineage.MAX_LINKS)]
    truncated: bool


@router.get("/nodes/{node_id}/lineage", responses=responses())
def get_lineage(
    caller: AnyCaller,
    services: ServicesDep,
    node_id: NodeId,
    direction: Annotated[
        Literal["up", "down", "both"], Query(description="`up`: what it came from; `down`: what came from it.")
    ] = "both",
    depth: Annotated[int, Query(ge=1, le=lineage.MAX_DEPTH, description="Most links from the node.")] = 4,
    limit: Annotated[int, Query(ge=1, le=lineage.MAX_NODES, description="Most nodes in the answer.")] = 200,
) -> Lineage:
    """Get what a node came from and what came from it, as far as the caller may see."""
    found = services.database.read(
        lambda connection: lineage.graph(connection, caller, node_id, direction, depth, limit)
    )
    nodes = [LineageNode(key=key, node=node_model(seen)) for key, seen in found.nodes.items()]
    nodes += [LineageNode(key=key, type=kind, name=name) for key, (kind, name) in found.external.items()]
    nodes += [LineageNode(key=key) for key in found.hidden]
    links = [LineageLink(run=link.run, side=link.side, target=link.target) for link in found.links]  # type: ignore[arg-type]
    return Lineage(root=found.root, nodes=nodes, links=links, truncated=found.is_truncated)

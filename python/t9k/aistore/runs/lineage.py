"""What a node came from, and what came from it.

The way up goes from a run to its inputs, and from any node to the runs that have it as an output; the way down is the
other way round. What the caller may not see, and what is in the trash, is a node without a name at which the way ends:
it tells that something is there, and nothing of it, not even whether two of them are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import lineage
from t9k.aistore.tree.access import node_for
from t9k.aistore.tree.views import NodeView, views, visible_views

MAX_DEPTH = 16
MAX_NODES = 500
MAX_LINKS = 2000

_UP, _DOWN = ("input", "output"), ("output", "input")
DIRECTIONS = {"up": (_UP,), "down": (_DOWN,), "both": (_UP, _DOWN)}
"""For each way: the side on which runs are left, and the side on which nodes lead to runs."""


@dataclass(frozen=True)
class Link:
    """A run has a target as its `side`. Both are keys of `Graph`."""

    run: str
    side: str
    target: str


@dataclass
class Graph:
    """What was found.

    Attributes:
        nodes: Nodes that the caller may see, by id, which is their key.
        external: Type and name of what is in no tree here, by key.
        hidden: Keys of what the caller may not see. They mean nothing beyond this answer.
        is_truncated: Whether there is more, behind a cap.
    """

    root: str
    nodes: dict[str, NodeView] = field(default_factory=dict)
    external: dict[str, tuple[str, str]] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    links: dict[Link, None] = field(default_factory=dict)
    is_truncated: bool = False


def graph(
    connection: lineage.Connection,
    caller: Caller,
    node_id: str,
    direction: str = "both",
    depth: int = 4,
    max_nodes: int = MAX_NODES,
) -> Graph:
    """The lineage of a node, at most `depth` links away; two or three queries for each link of depth.

    Raises:
        Refusal: As `tree.access.node_for`.
    """
    root = node_for(connection, caller, node_id)
    found = Graph(root.id, {root.id: views(connection, caller, [root])[0]})
    for own_side, other_side in DIRECTIONS[direction]:
        frontier, seen = [root.id], {root.id}
        for _ in range(depth):
            frontier = _step(connection, caller, found, frontier, seen, own_side, other_side, max_nodes)
            if not frontier:
                break
        else:
            found.is_truncated |= bool(_edges(connection, frontier, own_side, other_side, 1))
    return found


def _step(
    connection: lineage.Connection,
    caller: Caller,
    found: Graph,
    frontier: Sequence[str],
    seen: set[str],
    own_side: str,
    other_side: str,
    max_nodes: int,
) -> list[str]:
    """Follows one link from each node of the frontier; answers those that are reached for the first time."""
    edges = _edges(connection, frontier, own_side, other_side, MAX_LINKS + 1)
    ends = {edge.node_id if edge.side == own_side else edge.run_id for edge in edges}
    visible = visible_views(connection, caller, {end for end in ends if end is not None and end not in found.nodes})
    reached = []
    for edge in edges:
        is_from_run = edge.side == own_side
        end = edge.node_id if is_from_run else edge.run_id
        is_new = end not in found.nodes
        count = len(found.nodes) + len(found.external) + len(found.hidden)
        if len(found.links) >= MAX_LINKS or (is_new and count >= max_nodes):
            found.is_truncated = True
            break
        key = _key(found, edge, end, visible)
        link = Link(edge.run_id, edge.side, key) if is_from_run else Link(key, edge.side, edge.node_id)
        found.links.setdefault(link)
        if key in found.nodes and key not in seen:
            seen.add(key)
            reached.append(key)
    return reached


def _key(found: Graph, edge: Any, end: str | None, visible: dict[str, NodeView]) -> str:
    """The key of what an edge leads to, which is added if it is new."""
    if end is None:
        key = f"external:{edge.external_type}:{edge.external_name}"
        found.external[key] = (edge.external_type, edge.external_name)
        return key
    if end in visible:
        found.nodes.setdefault(end, visible[end])
    if end in found.nodes:
        return end
    found.hidden.append(f"hidden:{len(found.hidden)}")
    return found.hidden[-1]


def _edges(
    connection: lineage.Connection, frontier: Sequence[str], own_side: str, other_side: str, limit: int
) -> list[Any]:
    edges = lineage.edges_of_runs(connection, frontier, [own_side], limit)
    return edges + lineage.edges_to_nodes(connection, frontier, [other_side], limit)

"""SQL of the edges between runs and what they read and made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db.tables.runs import edges

__all__ = ["Connection", "Edge", "edges_of_runs", "edges_to_nodes", "set_edges"]


@dataclass(frozen=True)
class Edge:
    """An input or output of a run: a node, or what is not in a tree of this server."""

    node_id: str | None
    external_type: str | None = None
    external_name: str | None = None


def set_edges(connection: Connection, run_id: str, side: str, targets: Sequence[Edge]) -> None:
    """Replaces the inputs, or the outputs, of a run."""
    connection.execute(sa.delete(edges).where(edges.c.run_id == run_id, edges.c.side == side))
    rows = [
        {
            "run_id": run_id,
            "side": side,
            "position": position,
            "node_id": target.node_id,
            "external_type": target.external_type,
            "external_name": target.external_name,
        }
        for position, target in enumerate(targets)
    ]
    if rows:
        connection.execute(sa.insert(edges), rows)


def edges_of_runs(connection: Connection, run_ids: Iterable[str], sides: Sequence[str], limit: int) -> list[Row[Any]]:
    """Edges that begin at these runs, in order."""
    query = (
        sa.select(edges)
        .where(edges.c.run_id.in_(list(run_ids)), edges.c.side.in_(list(sides)))
        .order_by(edges.c.run_id, edges.c.side, edges.c.position)
        .limit(limit)
    )
    return list(connection.execute(query))


def edges_to_nodes(connection: Connection, node_ids: Iterable[str], sides: Sequence[str], limit: int) -> list[Row[Any]]:
    """Edges of runs that end at these nodes, in order."""
    query = (
        sa.select(edges)
        .where(edges.c.node_id.in_(list(node_ids)), edges.c.side.in_(list(sides)))
        .order_by(edges.c.node_id, edges.c.side, edges.c.run_id)
        .limit(limit)
    )
    return list(connection.execute(query))

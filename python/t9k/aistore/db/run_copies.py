"""SQL that copies the record of a run, inside the database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from t9k.aistore.clock import new_id
from t9k.aistore.db.runs import NO_HEARTBEAT
from t9k.aistore.db.tables import runs as tables

_OF_A_NODE = (
    (tables.run_params, "node_id"),
    (tables.metric_types, "node_id"),
    (tables.metric_series, "node_id"),
    (tables.metric_sessions, "node_id"),
    (tables.log_parts, "node_id"),
    (tables.edges, "run_id"),
)


def copy_run(connection: Connection, from_id: str, to_id: str, creator_id: str) -> None:
    """Gives a new node the record of a run: documents, metrics, log and edges.

    It is a record of its own, which no client sends to: its `client_id` is its own id, and it never beats, so that one
    of a run that runs keeps that state.
    """
    own = {"creator_id": creator_id, "client_id": f"copy:{to_id}", "heartbeat_us": NO_HEARTBEAT}
    _copy(connection, tables.runs, {"node_id": (from_id, to_id)}, **own)
    for table, column in _OF_A_NODE:
        _copy(connection, table, {column: (from_id, to_id)})
    blocks = sa.select(tables.metric_blocks.c.id).where(tables.metric_blocks.c.node_id == from_id)
    for block_id in list(connection.execute(blocks).scalars()):
        copied = new_id()
        _copy(connection, tables.metric_blocks, {"id": (block_id, copied)}, node_id=to_id)
        _copy(connection, tables.metric_columns, {"block_id": (block_id, copied)})


def _copy(connection: Connection, table: sa.Table, keys: dict[str, tuple[str, str]], **values: Any) -> None:
    """Copies the rows whose columns are the first of each pair, with the second in its place."""
    changed = {name: new for name, (_, new) in keys.items()} | values
    names = [column.name for column in table.columns]
    columns = [
        sa.literal(changed[name], table.c[name].type).label(name) if name in changed else table.c[name]
        for name in names
    ]
    rows = sa.select(*columns).where(*(table.c[name] == old for name, (old, _) in keys.items()))
    connection.execute(sa.insert(table).from_select(names, rows))

"""SQL of metrics: sessions, blocks of batches, and what is known of each metric without its points.

A block holds the batches ``first_sequence`` to ``last_sequence`` of a session, without a gap. No two blocks of a
session overlap, so the block that begins last before a sequence number tells whether that number is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.clock import new_id
from t9k.aistore.db.tables.runs import metric_blocks, metric_columns, metric_series, metric_sessions, metric_types, runs

FULL = 9
"""The level of a block that is never merged again; the index of small blocks leaves it out."""

__all__ = [
    "FULL",
    "Block",
    "Connection",
    "add_block",
    "add_columns",
    "add_session",
    "add_type",
    "count_series",
    "count_types",
    "is_stored",
    "series_of",
    "session_of",
    "type_of",
    "types_of",
    "update_type",
    "write_series",
]


@dataclass(frozen=True)
class Block:
    """A block that is about to be inserted."""

    node_id: str
    type: str
    session: int
    first_sequence: int
    last_sequence: int
    level: int
    points: int
    first_step: int
    last_step: int
    batch: bytes | None = None


_SESSION = (
    sa.select(runs.c.node_id, metric_sessions.c.number)
    .outerjoin(
        metric_sessions,
        sa.and_(metric_sessions.c.node_id == runs.c.node_id, metric_sessions.c.session == sa.bindparam("session")),
    )
    .where(runs.c.node_id == sa.bindparam("run_id"))
)
_BLOCK_BEFORE = (
    sa.select(metric_blocks.c.last_sequence)
    .where(
        metric_blocks.c.node_id == sa.bindparam("run_id"),
        metric_blocks.c.type == sa.bindparam("type"),
        metric_blocks.c.session == sa.bindparam("session"),
        metric_blocks.c.first_sequence <= sa.bindparam("sequence"),
    )
    .order_by(metric_blocks.c.first_sequence.desc())
    .limit(1)
)
_TYPE = sa.select(metric_types).where(
    metric_types.c.node_id == sa.bindparam("run_id"), metric_types.c.type == sa.bindparam("type")
)
_SERIES = sa.select(metric_series).where(
    metric_series.c.node_id == sa.bindparam("run_id"), metric_series.c.type == sa.bindparam("type")
)
_SERIES_OF_NAMES = _SERIES.where(metric_series.c.name.in_(sa.bindparam("names", expanding=True)))
_COUNT_SERIES = sa.select(sa.func.count()).where(
    metric_series.c.node_id == sa.bindparam("run_id"), metric_series.c.type == sa.bindparam("type")
)
_UPDATE_TYPE = (
    sa.update(metric_types)
    .where(metric_types.c.node_id == sa.bindparam("b_run_id"), metric_types.c.type == sa.bindparam("b_type"))
    .values({name: sa.bindparam(name) for name in ("points", "first_step", "last_step")})
)
_CHANGING = ("logged", "last", "last_step", "last_session", "last_sequence", "min", "max")
_UPDATE_SERIES = (
    sa.update(metric_series)
    .where(
        metric_series.c.node_id == sa.bindparam("b_node_id"),
        metric_series.c.type == sa.bindparam("b_type"),
        metric_series.c.name == sa.bindparam("b_name"),
    )
    .values({name: sa.bindparam(name) for name in _CHANGING})
)
_INSERT_BLOCK = sa.insert(metric_blocks)
_INSERT_SERIES = sa.insert(metric_series)


def session_of(connection: Connection, run_id: str, session: str) -> tuple[bool, int | None]:
    """Whether there is such a run, and the number of its session, None if it has sent nothing yet."""
    row = connection.execute(_SESSION, {"run_id": run_id, "session": session}).first()
    return (False, None) if row is None else (True, row.number)


def add_session(connection: Connection, run_id: str, session: str) -> int:
    """Numbers a session behind those that are there."""
    query = sa.select(sa.func.count()).where(metric_sessions.c.node_id == run_id)
    number: int = connection.execute(query).scalar_one()
    connection.execute(sa.insert(metric_sessions).values(node_id=run_id, session=session, number=number))
    return number


def is_stored(connection: Connection, run_id: str, kind: str, session: int, sequence: int) -> bool:
    """Whether a batch is stored, as it came or merged."""
    values = {"run_id": run_id, "type": kind, "session": session, "sequence": sequence}
    last = connection.execute(_BLOCK_BEFORE, values).scalar()
    return last is not None and last >= sequence


def add_block(connection: Connection, block: Block) -> str:
    """Adds a block; answers its id."""
    block_id = new_id()
    connection.execute(_INSERT_BLOCK, {"id": block_id, **asdict(block)})
    return block_id


def type_of(connection: Connection, run_id: str, kind: str) -> Row[Any] | None:
    """Count and range of a type's points."""
    return connection.execute(_TYPE, {"run_id": run_id, "type": kind}).first()


def types_of(connection: Connection, run_id: str) -> list[Row[Any]]:
    """All types of a run."""
    query = sa.select(metric_types).where(metric_types.c.node_id == run_id).order_by(metric_types.c.type)
    return list(connection.execute(query))


def count_types(connection: Connection, run_id: str) -> int:
    """How many types a run has."""
    query = sa.select(sa.func.count()).where(metric_types.c.node_id == run_id)
    return int(connection.execute(query).scalar_one())


def add_type(connection: Connection, run_id: str, kind: str, points: int, first_step: int, last_step: int) -> None:
    """Adds a type with its first points."""
    row = {"node_id": run_id, "type": kind, "points": points, "first_step": first_step, "last_step": last_step}
    connection.execute(sa.insert(metric_types).values(row))


def update_type(connection: Connection, run_id: str, kind: str, points: int, first_step: int, last_step: int) -> None:
    """Sets count and range of a type's points."""
    row = {"b_run_id": run_id, "b_type": kind, "points": points, "first_step": first_step, "last_step": last_step}
    connection.execute(_UPDATE_TYPE, row)


def series_of(
    connection: Connection, run_id: str, kind: str, names: Sequence[str] | None = None
) -> dict[str, Row[Any]]:
    """What is known of some metrics of a type, or of all, in the order of their first logging."""
    values: dict[str, Any] = {"run_id": run_id, "type": kind}
    if names is None:
        query = _SERIES.order_by(metric_series.c.number)
    else:
        query, values["names"] = _SERIES_OF_NAMES, list(names)
    return {row.name: row for row in connection.execute(query, values)}


def count_series(connection: Connection, run_id: str, kind: str) -> int:
    """How many metrics a type has."""
    return int(connection.execute(_COUNT_SERIES, {"run_id": run_id, "type": kind}).scalar_one())


def write_series(connection: Connection, added: Sequence[dict[str, Any]], changed: Sequence[dict[str, Any]]) -> None:
    """Adds rows of `metric_series` and changes others, each given whole."""
    if added:
        connection.execute(_INSERT_SERIES, list(added))
    if changed:
        keyed = [
            {"b_node_id": row["node_id"], "b_type": row["type"], "b_name": row["name"]}
            | {name: row[name] for name in _CHANGING}
            for row in changed
        ]
        connection.execute(_UPDATE_SERIES, keyed)


def add_columns(connection: Connection, block_id: str, columns: dict[int, bytes]) -> None:
    """Adds the columns of a merged block by their numbers."""
    rows = [{"block_id": block_id, "number": number, "data": data} for number, data in columns.items()]
    connection.execute(sa.insert(metric_columns), rows)

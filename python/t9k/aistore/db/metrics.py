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
from t9k.aistore.db.tables.runs import metric_blocks, metric_columns, metric_series, metric_sessions, metric_types

STEPS, EPOCHS, TIMES, SEQUENCES = -4, -3, -2, -1
"""Numbers of the columns that every merged block has; those of metrics are not negative."""

FULL = 9
"""The level of a block that is never merged again; the index of small blocks leaves it out."""

__all__ = [
    "FULL",
    "Block",
    "Connection",
    "add_block",
    "add_columns",
    "batches_of",
    "blocks_of",
    "columns_of",
    "count_blocks",
    "crowded",
    "delete_blocks",
    "series_of",
    "stored_of",
    "type_of",
    "types_of",
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
    names: int
    first_step: int
    last_step: int
    batch: bytes | None = None


_TYPE = sa.select(metric_types).where(
    metric_types.c.node_id == sa.bindparam("run_id"), metric_types.c.type == sa.bindparam("type")
)
_SERIES = sa.select(metric_series).where(
    metric_series.c.node_id == sa.bindparam("run_id"), metric_series.c.type == sa.bindparam("type")
)
_SERIES_OF_NAMES = _SERIES.where(metric_series.c.name.in_(sa.bindparam("names", expanding=True)))
_INSERT_BLOCK = sa.insert(metric_blocks)


_STORED = (
    sa.select(
        metric_blocks.c.type,
        (sa.func.max(metric_blocks.c.last_sequence) + 1).label("batches"),
        sa.func.sum(metric_blocks.c.points).label("points"),
    )
    .join(
        metric_sessions,
        sa.and_(
            metric_sessions.c.node_id == metric_blocks.c.node_id, metric_sessions.c.number == metric_blocks.c.session
        ),
    )
    .where(metric_sessions.c.node_id == sa.bindparam("run_id"), metric_sessions.c.session == sa.bindparam("session"))
    .group_by(metric_blocks.c.type)
    .order_by(metric_blocks.c.type)
)


def stored_of(connection: Connection, run_id: str, session: str) -> list[Row[Any]]:
    """What is stored of a session: by type, the number behind the last batch, and all points."""
    return list(connection.execute(_STORED, {"run_id": run_id, "session": session}))


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


def add_columns(connection: Connection, block_id: str, columns: dict[int, bytes]) -> None:
    """Adds the columns of a merged block by their numbers."""
    rows = [{"block_id": block_id, "number": number, "data": data} for number, data in columns.items()]
    connection.execute(sa.insert(metric_columns), rows)


_HEADER = sa.select(*(column for column in metric_blocks.c if column.name != "batch"))
_CROWDED = (
    sa.select(metric_blocks.c.node_id, metric_blocks.c.type, metric_blocks.c.session)
    .where(sa.literal_column("level < 9"))
    .group_by(metric_blocks.c.node_id, metric_blocks.c.type, metric_blocks.c.session)
    .having(
        sa.or_(
            sa.func.count() >= sa.bindparam("blocks"),
            sa.func.sum(metric_blocks.c.points) >= sa.bindparam("points"),
        )
    )
)


def crowded(connection: Connection, blocks: int, points: int) -> list[Row[Any]]:
    """Run, type and session wherever so many small blocks lie, or so many points in small blocks."""
    return list(connection.execute(_CROWDED, {"blocks": blocks, "points": points}))


def blocks_query(
    run_id: str,
    kind: str,
    *,
    session: int | None = None,
    first_step: int | None = None,
    last_step: int | None = None,
    after: tuple[int, int] | None = None,
) -> sa.Select[Any]:
    """The query of `blocks_of`."""
    query = _HEADER.where(metric_blocks.c.node_id == run_id, metric_blocks.c.type == kind)
    if session is not None:
        query = query.where(metric_blocks.c.session == session)
    if first_step is not None:
        query = query.where(metric_blocks.c.last_step >= first_step)
    if last_step is not None:
        query = query.where(metric_blocks.c.first_step <= last_step)
    if after is not None:
        position = sa.tuple_(metric_blocks.c.session, metric_blocks.c.last_sequence)
        query = query.where(metric_blocks.c.session >= after[0], position >= sa.tuple_(*after))
    return query.order_by(metric_blocks.c.session, metric_blocks.c.first_sequence)


def blocks_of(connection: Connection, run_id: str, kind: str, **limits: Any) -> list[Row[Any]]:
    """Blocks of a type in their order, without what is in them.

    Args:
        connection: Of the transaction.
        run_id: Of the run.
        kind: Type of metrics.
        **limits: `session`: of this one only; `first_step`, `last_step`: that may have points between; `after`: that
            may have batches at or behind this session and sequence number.
    """
    return list(connection.execute(blocks_query(run_id, kind, **limits)))


def batches_of(connection: Connection, block_ids: Sequence[str]) -> dict[str, bytes]:
    """The batches of blocks that are as they came."""
    query = sa.select(metric_blocks.c.id, metric_blocks.c.batch).where(
        metric_blocks.c.id.in_(list(block_ids)), metric_blocks.c.batch.is_not(None)
    )
    return {row.id: row.batch for row in connection.execute(query)}


def columns_of(
    connection: Connection, block_ids: Sequence[str], numbers: Sequence[int] | None = None
) -> dict[str, dict[int, bytes]]:
    """Columns of merged blocks by block and number: these, or all."""
    query = sa.select(metric_columns).where(metric_columns.c.block_id.in_(list(block_ids)))
    if numbers is not None:
        query = query.where(metric_columns.c.number.in_(list(numbers)))
    found: dict[str, dict[int, bytes]] = {}
    for row in connection.execute(query):
        found.setdefault(row.block_id, {})[row.number] = row.data
    return found


def count_blocks(connection: Connection, block_ids: Sequence[str]) -> int:
    """How many of these blocks are there."""
    query = sa.select(sa.func.count()).where(metric_blocks.c.id.in_(list(block_ids)))
    return int(connection.execute(query).scalar_one())


def delete_blocks(connection: Connection, block_ids: Sequence[str]) -> None:
    """Removes blocks with their columns."""
    connection.execute(sa.delete(metric_blocks).where(metric_blocks.c.id.in_(list(block_ids))))

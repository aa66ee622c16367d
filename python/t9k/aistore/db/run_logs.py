"""SQL of logs: compressed parts, one behind the other."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db.tables.runs import log_parts, runs

__all__ = ["Connection", "last_part", "parts_from", "put_parts"]


def last_part(connection: Connection, run_id: str) -> Row[Any] | None:
    """The part at the end of a log."""
    query = sa.select(log_parts).where(log_parts.c.node_id == run_id).order_by(log_parts.c.offset.desc()).limit(1)
    return connection.execute(query).first()


def put_parts(connection: Connection, run_id: str, parts: list[tuple[int, int, bytes]], log_bytes: int) -> None:
    """Writes parts (offset, length, compressed), in place of those at the same offsets, and the log's new length."""
    offsets = [offset for offset, _, _ in parts]
    connection.execute(sa.delete(log_parts).where(log_parts.c.node_id == run_id, log_parts.c.offset.in_(offsets)))
    rows = [{"node_id": run_id, "offset": offset, "length": length, "data": data} for offset, length, data in parts]
    connection.execute(sa.insert(log_parts), rows)
    connection.execute(sa.update(runs).where(runs.c.node_id == run_id).values(log_bytes=log_bytes))


def parts_from(connection: Connection, run_id: str, start: int, stop: int, limit: int) -> list[Row[Any]]:
    """The first parts that have bytes between `start` and `stop`."""
    query = (
        sa.select(log_parts)
        .where(
            log_parts.c.node_id == run_id,
            log_parts.c.offset < stop,
            log_parts.c.offset + log_parts.c.length > start,
        )
        .order_by(log_parts.c.offset)
        .limit(limit)
    )
    return list(connection.execute(query))

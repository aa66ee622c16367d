"""SQL of batches of metrics that arrive, of many runs at once: each statement is a way to the database and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db import bulk
from t9k.aistore.db.tables.runs import metric_blocks, metric_series, metric_sessions, metric_types, runs

__all__ = ["Connection", "Rows", "count_series", "count_sessions", "count_types", "places_of", "series_at", "write"]

Place = tuple[str, str, str, int]
"""Of a batch: run, type, session, sequence number."""

Series = tuple[str, str, str]
"""A metric: run, type, name."""


@dataclass
class Rows:
    """What some batches change, each row whole; `write` writes it."""

    sessions: list[dict[str, Any]] = field(default_factory=list)
    types: list[dict[str, Any]] = field(default_factory=list)
    changed_types: list[dict[str, Any]] = field(default_factory=list)
    series: list[dict[str, Any]] = field(default_factory=list)
    changed_series: list[dict[str, Any]] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)


@cache
def _places(dialect: str) -> sa.Select[Any]:
    batch = bulk.prepared(dialect, "batch", run_id=sa.Text, kind=sa.Text, sender=sa.Text, sequence=sa.BigInteger)
    stored_to = (
        sa.select(metric_blocks.c.last_sequence)
        .where(
            metric_blocks.c.node_id == batch.c.run_id,
            metric_blocks.c.type == batch.c.kind,
            metric_blocks.c.session == metric_sessions.c.number,
            metric_blocks.c.first_sequence <= batch.c.sequence,
        )
        .order_by(metric_blocks.c.first_sequence.desc())
        .limit(1)
        .correlate(batch, metric_sessions)
        .scalar_subquery()
    )
    of_session = (metric_sessions.c.node_id == runs.c.node_id, metric_sessions.c.session == batch.c.sender)
    of_type = (metric_types.c.node_id == runs.c.node_id, metric_types.c.type == batch.c.kind)
    return sa.select(
        batch.c.position,
        metric_sessions.c.number.label("session"),
        stored_to.label("stored_to"),
        metric_types.c.points,
        metric_types.c.first_step,
        metric_types.c.last_step,
    ).select_from(
        bulk.look_up(batch, (runs, runs.c.node_id == batch.c.run_id))
        .outerjoin(metric_sessions, sa.and_(*of_session))
        .outerjoin(metric_types, sa.and_(*of_type))
    )


def places_of(connection: Connection, places: Sequence[Place]) -> list[Any]:
    """What each batch meets; None where there is no such run.

    `session` is the number of its session, None if that has sent nothing yet; `stored_to` the last sequence number of
    the block that begins last before the batch, or None; `points`, `first_step` and `last_step` are of the type, None
    if it is new.
    """
    dialect = connection.dialect.name
    run_ids, kinds, sessions, sequences = zip(*places, strict=True)
    given = bulk.values_of(dialect, "batch", run_id=run_ids, kind=kinds, sender=sessions, sequence=sequences)
    found: dict[int, Any] = {row.position: row for row in connection.execute(_places(dialect), given)}
    return [found.get(position) for position in range(len(places))]


@cache
def _series(dialect: str) -> sa.Select[Any]:
    batch = bulk.prepared(dialect, "batch", run_id=sa.Text, kind=sa.Text, name=sa.Text)
    here = (metric_series.c.node_id == batch.c.run_id, metric_series.c.type == batch.c.kind)
    joined = bulk.look_up(batch, (metric_series, sa.and_(*here, metric_series.c.name == batch.c.name)))
    return sa.select(metric_series).select_from(joined)


def series_at(connection: Connection, wanted: Sequence[Series]) -> dict[Series, Row[Any]]:
    """What is known of some metrics; new ones are missing."""
    dialect, found = connection.dialect.name, {}
    for start in range(0, len(wanted), bulk.BATCH_ROWS):
        run_ids, kinds, names = zip(*wanted[start : start + bulk.BATCH_ROWS], strict=True)
        given = bulk.values_of(dialect, "batch", run_id=run_ids, kind=kinds, name=names)
        for row in connection.execute(_series(dialect), given):
            found[row.node_id, row.type, row.name] = row
    return found


def count_sessions(connection: Connection, run_id: str) -> int:
    """How many sessions a run has."""
    return _count(connection, metric_sessions.c.node_id == run_id)


def count_types(connection: Connection, run_id: str) -> int:
    """How many types a run has."""
    return _count(connection, metric_types.c.node_id == run_id)


def count_series(connection: Connection, run_id: str, kind: str) -> int:
    """How many metrics a type has."""
    return _count(connection, metric_series.c.node_id == run_id, metric_series.c.type == kind)


def _count(connection: Connection, *conditions: sa.ColumnElement[bool]) -> int:
    return int(connection.execute(sa.select(sa.func.count()).where(*conditions)).scalar_one())


_TYPE_CHANGES = ("points", "first_step", "last_step")
_SERIES_CHANGES = ("logged", "last", "last_step", "last_session", "last_sequence", "min", "max")


@cache
def _update(table: sa.Table, changes: Sequence[str], dialect: str) -> sa.Update:
    """Changes rows of a table by its key: on PostgreSQL all in one statement, on SQLite, which is no way off, each."""
    keys = [column.name for column in table.primary_key]
    if dialect == "sqlite":
        here = (table.c[key] == sa.bindparam(f"key_{key}") for key in keys)
        return sa.update(table).where(*here).values({name: sa.bindparam(name) for name in changes})
    kinds = {name: type(table.c[name].type) for name in (*keys, *changes)}
    new = bulk.prepared(dialect, "new", **kinds)
    here = (table.c[key] == new.c[key] for key in keys)
    return sa.update(table).where(*here).values({name: new.c[name] for name in changes})


_INSERTS = (
    ("sessions", sa.insert(metric_sessions)),
    ("types", sa.insert(metric_types)),
    ("series", sa.insert(metric_series)),
    ("blocks", sa.insert(metric_blocks)),
)


def write(connection: Connection, rows: Rows) -> None:
    """Writes rows: at most one statement for each table and way."""
    for name, insert in _INSERTS:
        if new := getattr(rows, name):
            connection.execute(insert, new)
    dialect = connection.dialect.name
    for changed, table, changes in (
        (rows.changed_types, metric_types, _TYPE_CHANGES),
        (rows.changed_series, metric_series, _SERIES_CHANGES),
    ):
        if not changed:
            continue
        update = _update(table, changes, dialect)
        if dialect == "sqlite":
            connection.execute(update, [_keyed(row, changes) for row in changed])
        else:
            columns = {name: [row[name] for row in changed] for name in changed[0]}
            connection.execute(update, bulk.values_of(dialect, "new", **columns))


def _keyed(row: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """The parameters of an update: a column among them that it does not name would be set too."""
    return {name if name in changes else f"key_{name}": value for name, value in row.items()}

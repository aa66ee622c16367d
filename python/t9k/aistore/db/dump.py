"""All rows of all tables, for backups; whatever the schema's revision, by what the database says of itself."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Connection

from t9k.aistore.clock import new_id, now_us
from t9k.aistore.db.database import Database
from t9k.aistore.db.tables.history import history
from t9k.aistore.db.tables.holds import blob_holds

HOLD_US = 24 * 3600 * 1_000_000
"""A backup that dies keeps the garbage collector from blobs for this long."""

_BATCH_ROWS = 1000
_NOT_DUMPED = ("alembic_version", blob_holds.name, history.name)


@contextmanager
def hold_blobs(database: Database) -> Iterator[None]:
    """While it lasts, at most a day, the garbage collector deletes no blob."""
    hold_id = new_id()
    row = {"id": hold_id, "until_us": now_us() + HOLD_US}
    database.write(lambda connection: connection.execute(sa.insert(blob_holds).values(row)))
    try:
        yield
    finally:
        database.write(lambda connection: connection.execute(sa.delete(blob_holds).where(blob_holds.c.id == hold_id)))


def are_blobs_held(connection: Connection) -> bool:
    """Whether no blob may be deleted now."""
    query = sa.select(blob_holds.c.id).where(blob_holds.c.until_us > now_us()).limit(1)
    return connection.execute(query).first() is not None


def revision(connection: Connection) -> str | None:
    """The schema's revision."""
    return MigrationContext.configure(connection).get_current_revision()


def tables(connection: Connection) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """Each table's name and rows as JSON holds them: bytes are base64. Rows are read as they are asked for."""
    for table in _reflected(connection):
        yield table.name, _rows(connection, table)


def names(connection: Connection) -> list[str]:
    """Names of all tables, in an order in which they can be filled."""
    return [table.name for table in _reflected(connection)]


def insert(connection: Connection, name: str, rows: Iterable[dict[str, Any]]) -> int:
    """Fills a table with rows from `tables`; answers their number. References are checked at the end."""
    table = next(table for table in _reflected(connection) if table.name == name)
    defer = "PRAGMA defer_foreign_keys=ON" if connection.dialect.name == "sqlite" else "SET CONSTRAINTS ALL DEFERRED"
    connection.exec_driver_sql(defer)
    binary = _binary(table)
    count, rest = 0, iter(rows)
    while batch := list(itertools.islice(rest, _BATCH_ROWS)):
        for row in batch:
            row.update({key: base64.b64decode(row[key]) for key in binary if row[key] is not None})
        connection.execute(sa.insert(table), batch)
        count += len(batch)
    if connection.dialect.name == "postgresql":
        _count_on(connection, table)
    return count


def _count_on(connection: Connection, table: sa.Table) -> None:
    """Lets PostgreSQL number new rows behind those that came with their numbers; SQLite does so by itself."""
    for column in table.primary_key.columns:
        sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
        if isinstance(column.type, sa.Integer) and connection.execute(sa.select(sequence)).scalar() is not None:
            highest = sa.func.greatest(sa.func.max(column), 1)
            connection.execute(sa.select(sa.func.setval(sequence, highest)).select_from(table))


def _rows(connection: Connection, table: sa.Table) -> Iterator[dict[str, Any]]:
    binary = _binary(table)
    result = connection.execution_options(yield_per=_BATCH_ROWS).execute(
        sa.select(table).order_by(*table.primary_key.columns)
    )
    for row in result.mappings():
        values = dict(row)
        values.update({key: base64.b64encode(values[key]).decode() for key in binary if values[key] is not None})
        yield values


def _binary(table: sa.Table) -> list[str]:
    return [column.name for column in table.columns if isinstance(column.type, sa.LargeBinary)]


def _reflected(connection: Connection) -> list[sa.Table]:
    found = sa.MetaData()
    found.reflect(connection)
    for table in found.tables.values():
        for column in table.columns:
            if isinstance(column.type, sa.JSON):
                column.type.none_as_null = True
    return [table for table in found.sorted_tables if table.name not in _NOT_DUMPED]

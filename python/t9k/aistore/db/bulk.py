"""Many values in one statement, alike on both databases.

A table of values is a parameter: one JSON text on SQLite, whose variables are limited, and arrays on PostgreSQL. A
statement that joins it runs once for a batch, however many rows that has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.selectable import Join

Kind = type[sa.types.TypeEngine[Any]]

BATCH_ROWS = 20_000
"""Rows of one statement: 1.3 MB of JSON for digests."""


def table_of(connection: Connection, **columns: tuple[Kind, Sequence[Any]]) -> sa.Subquery:
    """A table of values, its columns by name, and `position`, which counts rows from 0.

    Args:
        connection: Tells which database it is for.
        columns: Type (LargeBinary, BigInteger or Text) and values of each; all of one length.
    """
    dialect = connection.dialect.name
    kinds = {name: kind for name, (kind, _) in columns.items()}
    values = values_of(dialect, "batch", **{name: values for name, (_, values) in columns.items()})
    return _table(dialect, "batch", kinds, lambda name, kind: sa.literal(values[name], kind))


def prepared(dialect: str, table: str, **kinds: Kind) -> sa.Subquery:
    """As `table_of`, of values that each execution of a statement gives with `values_of`."""
    return _table(dialect, table, kinds, lambda name, kind: sa.bindparam(name, type_=kind))


def values_of(dialect: str, table: str, **values: Sequence[Any]) -> dict[str, Any]:
    """The parameters of a statement with a table that was `prepared`, by their names."""
    if dialect != "sqlite":
        return {f"{table}_{name}": list(column) for name, column in values.items()}
    columns = [
        [value.hex() for value in column] if column and isinstance(column[0], bytes) else column
        for column in values.values()
    ]
    rows = list(columns[0] if len(columns) == 1 else zip(*columns, strict=True))
    return {table: json.dumps(rows, separators=(",", ":"))}


def _table(
    dialect: str, table: str, kinds: dict[str, Kind], parameter: Callable[[str, Any], sa.ColumnElement[Any]]
) -> sa.Subquery:
    if dialect == "sqlite":
        return _json_table(table, kinds, parameter(table, sa.Text()))
    arrays = [sa.cast(parameter(f"{table}_{name}", ARRAY(kind)), ARRAY(kind)) for name, kind in kinds.items()]
    derived = [sa.column(name, kind) for name, kind in kinds.items()]
    rows = sa.func.unnest(*arrays).table_valued(*derived, with_ordinality="ordinality", name=table).render_derived()
    selected = [rows.c[name] for name in kinds]
    return sa.select(*selected, (rows.c.ordinality - 1).label("position")).subquery(table)


def _json_table(table: str, kinds: dict[str, Kind], text: sa.ColumnElement[Any]) -> sa.Subquery:
    each = sa.func.json_each(text).table_valued("key", "value", name="each")
    selected: list[sa.ColumnElement[Any]] = []
    for index, (name, kind) in enumerate(kinds.items()):
        value: Any = each.c.value if len(kinds) == 1 else sa.func.json_extract(each.c.value, f"$[{index}]")
        value = sa.func.unhex(value, type_=sa.LargeBinary) if kind is sa.LargeBinary else sa.type_coerce(value, kind)
        selected.append(value.label(name))
    return sa.select(*selected, each.c.key.label("position")).subquery(table)


class _OrderedJoin(Join):
    inherit_cache = True


@compiles(_OrderedJoin, "sqlite")
def _cross_join(join: _OrderedJoin, compiler: Any, **options: Any) -> str:
    inside = options | {"asfrom": True}
    left, right = compiler.process(join.left, **inside), compiler.process(join.right, **inside)
    return f"{left} CROSS JOIN {right} ON {compiler.process(join.onclause, **options | {'asfrom': False})}"


def look_up(batch: sa.FromClause, *steps: tuple[sa.FromClause, sa.ColumnElement[bool]]) -> sa.FromClause:
    """A batch, then tables that are looked up for each row of it, each with its condition.

    SQLite knows nothing of how long a JSON text is and would scan it for each row of a table; where a CROSS JOIN says
    so, it keeps to the order.
    """
    joined = batch
    for table, condition in steps:
        joined = _OrderedJoin(joined, table, condition)
    return joined


def split(digests: bytes | memoryview, size: int = 32) -> list[bytes]:
    """Values of a fixed number of bytes that lie one behind the other."""
    data = bytes(digests)
    return [data[at : at + size] for at in range(0, len(data), size)]


def batches(digests: Sequence[bytes]) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Parts of a list that one statement takes, each with the index of its first."""
    for start in range(0, len(digests), BATCH_ROWS):
        yield start, digests[start : start + BATCH_ROWS]


def insert(connection: Connection, table: sa.Table) -> Any:
    """An INSERT with ``on_conflict_do_nothing`` and ``on_conflict_do_update``, which both databases have."""
    return insert_into(connection.dialect.name, table)


def insert_into(dialect: str, table: sa.Table) -> Any:
    """As `insert`, of a statement that is made once for a database."""
    return (sqlite if dialect == "sqlite" else postgresql).insert(table)

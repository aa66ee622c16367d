"""SQL of the records of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.engine import Connection, Row

from t9k.aistore.db.tables.runs import run_params, runs

__all__ = [
    "NO_HEARTBEAT",
    "Connection",
    "beat",
    "by_client",
    "by_id",
    "crash_silent",
    "insert",
    "lock",
    "set_params",
    "state_of",
    "update",
]

NO_HEARTBEAT = 0
"""`heartbeat_us` of a run that nobody has sent: silence says nothing of it."""

_DOCUMENTS = ("metadata", "hparams", "platform", "git")
_STATE = sa.select(*(column for column in runs.c if column.name not in _DOCUMENTS))
_BY_ID = sa.select(runs).where(runs.c.node_id == sa.bindparam("run_id"))
_STATE_BY_ID = _STATE.where(runs.c.node_id == sa.bindparam("run_id"))

_LOCK = (
    sa.select(runs.c.node_id)
    .where(runs.c.node_id == sa.any_(sa.bindparam("run_ids", type_=ARRAY(sa.Text))))
    .order_by(runs.c.node_id)
    .with_for_update(key_share=True)
)


def by_id(connection: Connection, run_id: str) -> Row[Any] | None:
    """The whole record of a run."""
    return connection.execute(_BY_ID, {"run_id": run_id}).first()


def state_of(connection: Connection, run_id: str) -> Row[Any] | None:
    """The record of a run without its documents."""
    return connection.execute(_STATE_BY_ID, {"run_id": run_id}).first()


def lock(connection: Connection, run_ids: Sequence[str]) -> None:
    """Holds runs until the transaction's end, in the order of their ids, so that two never wait for each other.

    Of PostgreSQL only: SQLite has one writer.
    """
    connection.execute(_LOCK, {"run_ids": list(run_ids)})


def by_client(connection: Connection, creator_id: str, client_id: str) -> str | None:
    """The id of the run that this user's client has made under this id."""
    query = sa.select(runs.c.node_id).where(runs.c.creator_id == creator_id, runs.c.client_id == client_id)
    return connection.execute(query).scalar()


def insert(connection: Connection, values: Mapping[str, Any]) -> None:
    """Adds the record of a node that was just made."""
    connection.execute(sa.insert(runs).values(dict(values)))


def update(connection: Connection, run_id: str, values: Mapping[str, Any]) -> None:
    """Changes columns of a record."""
    connection.execute(sa.update(runs).where(runs.c.node_id == run_id).values(dict(values)))


def set_params(connection: Connection, run_id: str, leaves: Sequence[tuple[str, float | None, str | None]]) -> None:
    """Replaces the parameters that filters find a run by: key, number, text."""
    connection.execute(sa.delete(run_params).where(run_params.c.node_id == run_id))
    rows = [{"node_id": run_id, "key": key, "number": number, "text": text} for key, number, text in leaves]
    if rows:
        connection.execute(sa.insert(run_params), rows)


def beat(connection: Connection, run_id: str, now_us: int) -> None:
    """Notes that a run lives; one that counted as crashed runs again, one that has ended stays so."""
    is_open = runs.c.state.in_(("Running", "Crashed"))
    values = {"heartbeat_us": now_us, "state": "Running", "ended_us": None}
    connection.execute(sa.update(runs).where(runs.c.node_id == run_id, is_open).values(values))


_SILENT = (
    sa.update(runs)
    .where(
        runs.c.state == sa.literal_column("'Running'"),
        runs.c.heartbeat_us > NO_HEARTBEAT,
        runs.c.heartbeat_us < sa.bindparam("before_us"),
    )
    .values(state="Crashed", ended_us=runs.c.heartbeat_us)
)


def crash_silent(connection: Connection, before_us: int) -> int:
    """Marks the runs that have not beaten since then as crashed; answers how many."""
    return connection.execute(_SILENT, {"before_us": before_us}).rowcount

"""SQL of whose turn it is: a job that several processes know is done by one of them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from t9k.aistore.db import bulk
from t9k.aistore.db.tables.turns import job_turns


def take(connection: Connection, name: str, now_us: int, every_us: int) -> bool:
    """Takes the turn of a job, unless somebody took one less than `every_us` ago."""
    connection.execute(bulk.insert(connection, job_turns).values(name=name, taken_us=0).on_conflict_do_nothing())
    statement = sa.update(job_turns).where(job_turns.c.name == name, job_turns.c.taken_us <= now_us - every_us)
    return connection.execute(statement.values(taken_us=now_us)).rowcount > 0

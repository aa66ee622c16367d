"""The id of a database's history, which clients compare with the one that acknowledged what they sent.

No backup has it, so a database that is restored has another one than that which the backup was taken of: what came
after the backup and was acknowledged is not in it, and clients send it again.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from t9k.aistore.clock import new_id
from t9k.aistore.db.tables.history import history

__all__ = ["Connection", "current", "renew"]


def current(connection: Connection) -> str:
    """The id."""
    return str(connection.execute(sa.select(history.c.id)).scalar_one())


def renew(connection: Connection) -> str:
    """Another id, of a database that was put back by other means than `aistore restore`."""
    connection.execute(sa.update(history).values(id=new_id()))
    return current(connection)

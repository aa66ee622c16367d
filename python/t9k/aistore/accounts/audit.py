"""The audit trail: a row for every change that matters to security, in the transaction that makes the change."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import new_id, now_us
from t9k.aistore.db import accounts


def record(
    connection: Connection, caller: Caller | None, action: str, target: str, detail: dict[str, Any] | None = None
) -> None:
    """Notes what was done to what.

    Args:
        connection: Of the transaction that does it.
        caller: Who does it; None is the command line.
        action: ``thing.verb``.
        target: Name or id of the thing.
        detail: More about it; never a secret.
    """
    row = {
        "id": new_id(),
        "at_us": now_us(),
        "actor_id": caller.user_id if caller else None,
        "action": action,
        "target": target,
        "detail": detail,
        "address": caller.address if caller else None,
        "request_id": caller.request_id if caller else None,
    }
    accounts.insert_audit(connection, row)

"""SQL of users, groups and API keys."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from t9k.aistore.accounts.keys import NewKey
from t9k.aistore.db.tables.accounts import api_keys, audit, group_members, groups, users

_KEY_AND_USER = (
    sa.select(
        api_keys,
        users.c.name.label("user_name"),
        users.c.role,
        users.c.domain,
        users.c.disabled_us,
        group_members.c.group_id,
    )
    .join(users, users.c.id == api_keys.c.user_id)
    .outerjoin(group_members, group_members.c.user_id == users.c.id)
    .where(api_keys.c.prefix == sa.bindparam("prefix"))
)


def key_by_prefix(connection: Connection, prefix: str) -> Any:
    """The key with this prefix, its user's name, role and domain, and ``group_ids``; None if there is none."""
    rows = connection.execute(_KEY_AND_USER, {"prefix": prefix}).all()
    if not rows:
        return None
    return SimpleNamespace(**rows[0]._mapping, group_ids=[row.group_id for row in rows if row.group_id is not None])


def touch_key(connection: Connection, key_id: str, now_us: int) -> None:
    """Notes the last use of a key."""
    connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(last_used_us=now_us))


def user_by_name(connection: Connection, name: str) -> Row[Any] | None:
    """The user of this name."""
    return connection.execute(sa.select(users).where(users.c.name == name)).first()


def any_user(connection: Connection) -> bool:
    """Whether there is a user at all."""
    return connection.execute(sa.select(users.c.id).limit(1)).first() is not None


def insert_user(connection: Connection, user_id: str, name: str, role: str, now_us: int) -> None:
    """Adds a user, whose chunks are shared with nobody."""
    row = {"id": user_id, "name": name, "role": role, "domain": user_id, "created_us": now_us}
    connection.execute(sa.insert(users).values(row))


def insert_key(
    connection: Connection,
    key_id: str,
    user_id: str,
    name: str,
    key: NewKey,
    scopes: str,
    now_us: int,
    expires_us: int | None,
) -> None:
    """Adds a key of a user."""
    row = {
        "id": key_id,
        "user_id": user_id,
        "name": name,
        "prefix": key.prefix,
        "hash": key.hash,
        "scopes": scopes,
        "created_us": now_us,
        "expires_us": expires_us,
    }
    connection.execute(sa.insert(api_keys).values(row))


def insert_audit(connection: Connection, row: dict[str, Any]) -> None:
    """Adds a row to the audit trail."""
    connection.execute(sa.insert(audit).values(row))


def group_by_name(connection: Connection, name: str) -> Row[Any] | None:
    """The group of this name."""
    return connection.execute(sa.select(groups).where(groups.c.name == name)).first()

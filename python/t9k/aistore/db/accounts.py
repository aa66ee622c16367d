"""SQL of users, groups and API keys."""

from __future__ import annotations

from collections.abc import Sequence
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
    .where(api_keys.c.prefix.in_(sa.bindparam("prefixes", expanding=True)))
)


def keys_by_prefix(connection: Connection, prefixes: Sequence[str]) -> list[Any]:
    """The key with each prefix, its user's name, role and domain, and ``group_ids``; None where there is none."""
    found: dict[str, Any] = {}
    for row in connection.execute(_KEY_AND_USER, {"prefixes": sorted(set(prefixes))}):
        if row.prefix not in found:
            found[row.prefix] = SimpleNamespace(**row._mapping, group_ids=[])
        if row.group_id is not None:
            found[row.prefix].group_ids.append(row.group_id)
    return [found.get(prefix) for prefix in prefixes]


def touch_key(connection: Connection, key_id: str, now_us: int) -> None:
    """Notes the last use of a key."""
    connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(last_used_us=now_us))


def user_by_name(connection: Connection, name: str) -> Row[Any] | None:
    """The user of this name."""
    return connection.execute(sa.select(users).where(users.c.name == name)).first()


def users_page(connection: Connection, after: str, limit: int) -> list[Row[Any]]:
    """Users by name, from after `after` on."""
    query = sa.select(users).where(users.c.name > after).order_by(users.c.name).limit(limit)
    return list(connection.execute(query))


def update_user(connection: Connection, user_id: str, values: dict[str, Any]) -> None:
    """Changes columns of a user."""
    connection.execute(sa.update(users).where(users.c.id == user_id).values(values))


def any_admin(connection: Connection) -> bool:
    """Whether an administrator is there who is not disabled."""
    query = sa.select(users.c.id).where(users.c.role == "admin", users.c.disabled_us.is_(None)).limit(1)
    return connection.execute(query).first() is not None


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


def groups_page(connection: Connection, after: str, limit: int) -> list[Row[Any]]:
    """Groups by name, from after `after` on."""
    query = sa.select(groups).where(groups.c.name > after).order_by(groups.c.name).limit(limit)
    return list(connection.execute(query))


def insert_group(connection: Connection, group_id: str, name: str, now_us: int) -> None:
    """Adds a group."""
    connection.execute(sa.insert(groups).values({"id": group_id, "name": name, "created_us": now_us}))


def delete_group(connection: Connection, group_id: str) -> None:
    """Removes a group with its memberships."""
    connection.execute(sa.delete(groups).where(groups.c.id == group_id))


def members(connection: Connection, group_id: str) -> list[str]:
    """Names of the users in a group."""
    query = sa.select(users.c.name).join(group_members, group_members.c.user_id == users.c.id)
    return list(connection.execute(query.where(group_members.c.group_id == group_id).order_by(users.c.name)).scalars())


def insert_member(connection: Connection, group_id: str, user_id: str) -> None:
    """Puts a user into a group."""
    connection.execute(sa.insert(group_members).values({"group_id": group_id, "user_id": user_id}))


def delete_member(connection: Connection, group_id: str, user_id: str) -> bool:
    """Takes a user out of a group; false if they were not in it."""
    here = (group_members.c.group_id == group_id, group_members.c.user_id == user_id)
    return connection.execute(sa.delete(group_members).where(*here)).rowcount > 0


_KEYS = sa.select(*(column for column in api_keys.c if column.name != "hash"), users.c.name.label("user_name")).join(
    users, users.c.id == api_keys.c.user_id
)


def keys_page(connection: Connection, user_name: str | None, after: str, limit: int) -> list[Row[Any]]:
    """Keys of a user, or of all, without their hashes, by id from after `after` on."""
    query = _KEYS.where(api_keys.c.id > after)
    if user_name is not None:
        query = query.where(users.c.name == user_name)
    return list(connection.execute(query.order_by(api_keys.c.id).limit(limit)))


def key_by_id_or_prefix(connection: Connection, key: str) -> Any:
    """A key without its hash; None if there is none."""
    found: Any = connection.execute(_KEYS.where(sa.or_(api_keys.c.id == key, api_keys.c.prefix == key))).first()
    return found


def count_keys(connection: Connection, user_id: str) -> int:
    """Keys of a user that are not revoked."""
    query = sa.select(sa.func.count()).where(api_keys.c.user_id == user_id, api_keys.c.revoked_us.is_(None))
    return connection.execute(query).scalar() or 0


def revoke_key(connection: Connection, key_id: str, now_us: int) -> None:
    """Marks a key as revoked."""
    connection.execute(sa.update(api_keys).where(api_keys.c.id == key_id).values(revoked_us=now_us))


def audit_page(connection: Connection, before: str | None, limit: int) -> list[Row[Any]]:
    """Rows of the audit trail with the names of their actors, the latest first, from before `before` on."""
    query = sa.select(audit, users.c.name.label("actor")).outerjoin(users, users.c.id == audit.c.actor_id)
    if before is not None:
        query = query.where(audit.c.id < before)
    return list(connection.execute(query.order_by(audit.c.id.desc()).limit(limit)))

"""Groups: users with whom a node is shared at once."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from t9k.aistore.accounts import audit
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.accounts.users import check_account_name
from t9k.aistore.clock import new_id, now_us
from t9k.aistore.db import accounts, sharing
from t9k.aistore.errors import conflict, not_found


def add_group(connection: Connection, caller: Caller | None, name: str) -> None:
    """Makes a group without members.

    Raises:
        Refusal: The name cannot be one (`invalid_input`) or is taken (`conflict`).
    """
    if accounts.group_by_name(connection, check_account_name(name)) is not None:
        raise conflict(f"there is a group {name!r}")
    accounts.insert_group(connection, new_id(), name, now_us())
    audit.record(connection, caller, "group.add", name)


def remove_group(connection: Connection, caller: Caller | None, name: str) -> None:
    """Removes a group, and every share with it.

    Raises:
        Refusal: There is no such group (`not_found`).
    """
    group = find_group(connection, name)
    shares = sharing.remove_all_of(connection, "group", group.id)
    accounts.delete_group(connection, group.id)
    audit.record(connection, caller, "group.remove", name, {"shares": shares})


def add_member(connection: Connection, caller: Caller | None, name: str, user_name: str) -> None:
    """Puts a user into a group; one who is in it already stays.

    Raises:
        Refusal: There is no such group or user (`not_found`).
    """
    group, user = find_group(connection, name), accounts.user_by_name(connection, user_name)
    if user is None:
        raise not_found(f"there is no user {user_name[:80]!r}")
    if user_name not in accounts.members(connection, group.id):
        accounts.insert_member(connection, group.id, user.id)
        audit.record(connection, caller, "group.member.add", name, {"user": user_name})


def remove_member(connection: Connection, caller: Caller | None, name: str, user_name: str) -> None:
    """Takes a user out of a group.

    Raises:
        Refusal: There is no such group, or the user is not in it (`not_found`).
    """
    group, user = find_group(connection, name), accounts.user_by_name(connection, user_name)
    if user is None or not accounts.delete_member(connection, group.id, user.id):
        raise not_found(f"there is no {user_name[:80]!r} in the group {name}")
    audit.record(connection, caller, "group.member.remove", name, {"user": user_name})


def find_group(connection: Connection, name: str) -> Any:
    """The group of a name.

    Raises:
        Refusal: There is none (`not_found`).
    """
    group = accounts.group_by_name(connection, name)
    if group is None:
        raise not_found(f"there is no group {name[:80]!r}")
    return group

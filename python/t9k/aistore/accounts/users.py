"""Users: made with their tree, disabled rather than deleted."""

from __future__ import annotations

import re
from dataclasses import dataclass

from t9k.aistore.accounts import keys
from t9k.aistore.clock import new_id, now_us
from t9k.aistore.db import Database, accounts, nodes
from t9k.aistore.errors import conflict, invalid, not_found

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
"""User names are parts of paths and of addresses: small letters, digits, and . _ - inside."""

DEFAULT_FOLDER = "default"
"""The folder of `upload` when none is named; every user has it."""


@dataclass(frozen=True)
class User:
    """A user of the server."""

    id: str
    name: str
    role: str


def add_user(database: Database, name: str, role: str = "user") -> User:
    """Makes a user with an empty tree and the folder ``default``.

    Raises:
        Refusal: The name cannot be one (`invalid_input`) or is taken (`conflict`).
    """
    if not _NAME.fullmatch(name):
        raise invalid(f"{name!r} cannot be a user's name", hint="use 1 to 64 small letters, digits, and . _ - inside")
    if role not in ("admin", "user"):
        raise invalid(f"{role!r} is no role", hint="use admin or user")
    user = User(new_id(), name, role)

    def work(connection: nodes.Connection) -> None:
        if accounts.user_by_name(connection, name) is not None:
            raise conflict(f"there is a user {name!r}")
        now = now_us()
        accounts.insert_user(connection, user.id, name, role, now)
        root = nodes.insert(connection, nodes.NewNode(None, user.id, "Folder", name), now)
        nodes.insert(connection, nodes.NewNode(root, user.id, "Folder", DEFAULT_FOLDER), now)

    database.write(work)
    return user


def add_key(
    database: Database,
    user_name: str,
    name: str,
    scopes: tuple[str, ...] = ("read", "write"),
    expires_us: int | None = None,
) -> keys.NewKey:
    """Makes an API key of a user; its text is in the answer and nowhere else.

    Raises:
        Refusal: There is no such user (`not_found`) or scope (`invalid_input`).
    """
    if not scopes or not set(scopes) <= set(keys.SCOPES):
        raise invalid(f"{' '.join(scopes)!r} are not scopes", hint=f"use some of {', '.join(keys.SCOPES)}")
    key = keys.make_key()

    def work(connection: nodes.Connection) -> None:
        user = accounts.user_by_name(connection, user_name)
        if user is None:
            raise not_found(f"there is no user {user_name!r}")
        accounts.insert_key(connection, new_id(), user.id, name, key, " ".join(scopes), now_us(), expires_us)

    database.write(work)
    return key

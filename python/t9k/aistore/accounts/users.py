"""Users: made with their tree, disabled rather than deleted. And their API keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t9k.aistore.accounts import audit, keys
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import new_id, now_us
from t9k.aistore.db import Database, accounts, nodes
from t9k.aistore.errors import conflict, forbidden, invalid, not_found

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
"""User names are parts of paths and of addresses: small letters, digits, and . _ - inside."""

DEFAULT_FOLDER = "default"
"""The folder of `upload` when none is named; every user has it."""

_DOMAIN = re.compile(r"[a-z0-9._-]{1,64}")
SHARED_DOMAIN = "shared:"
"""Stands before the names that administrators give; a user's own domain is their id, which has no colon."""

ROLES = ("admin", "user")
MAX_KEYS = 1000
"""Keys of one user that are not revoked."""

MAX_KEY_NAME_CHARS = 100


@dataclass(frozen=True)
class User:
    """A user of the server."""

    id: str
    name: str
    role: str


def check_account_name(name: str) -> str:
    """The name, if a user or group can have it.

    Raises:
        Refusal: It cannot (`invalid_input`).
    """
    if not _NAME.fullmatch(name):
        raise invalid(
            f"{name[:80]!r} cannot be a user's or group's name",
            hint="use 1 to 64 small letters, digits, and . _ - inside",
        )
    return name


def add_user(database: Database, name: str, role: str = "user", *, caller: Caller | None = None) -> User:
    """Makes a user with an empty tree and the folder ``default``.

    Raises:
        Refusal: The name cannot be one (`invalid_input`) or is taken (`conflict`).
    """
    user = User(new_id(), check_account_name(name), _check_role(role))

    def work(connection: nodes.Connection) -> None:
        if accounts.user_by_name(connection, name) is not None:
            raise conflict(f"there is a user {name!r}")
        now = now_us()
        accounts.insert_user(connection, user.id, name, role, now)
        root = nodes.insert(connection, nodes.NewNode(None, user.id, "Folder", name), now)
        nodes.insert(connection, nodes.NewNode(root, user.id, "Folder", DEFAULT_FOLDER), now)
        audit.record(connection, caller, "user.add", name, {"role": role})

    database.write(work)
    return user


def change_user(
    connection: nodes.Connection,
    caller: Caller | None,
    name: str,
    *,
    role: str | None = None,
    disabled: bool | None = None,
    shares_chunks_in: str | None = None,
) -> None:
    """Changes a user: at once, for all their keys.

    Args:
        connection: Of the transaction.
        caller: Who asks; None is the command line.
        name: Of the user.
        role: Their new role.
        disabled: Whether their keys stop working.
        shares_chunks_in: The domain in which their uploads find, and are told of, what others of the same domain have
            stored. Empty is their own, which every user begins with. What they have stored stays where it is.

    Raises:
        Refusal: There is no such user (`not_found`) or role (`invalid_input`), or nobody would be left who administers
            (`conflict`).
    """
    user = _user(connection, name)
    values: dict[str, Any] = {}
    if role is not None and _check_role(role) != user.role:
        values["role"] = role
        audit.record(connection, caller, "user.role", name, {"from": user.role, "to": role})
    if disabled is not None and disabled != (user.disabled_us is not None):
        values["disabled_us"] = now_us() if disabled else None
        audit.record(connection, caller, "user.disable" if disabled else "user.enable", name)
    if shares_chunks_in is not None and (domain := _domain(user.id, shares_chunks_in)) != user.domain:
        values["domain"] = domain
        audit.record(connection, caller, "user.domain", name, {"from": user.domain, "to": domain})
    if not values:
        return
    accounts.update_user(connection, user.id, values)
    if user.role == "admin" and user.disabled_us is None and not accounts.any_admin(connection):
        raise conflict(f"{name} is the only administrator", hint="make another one first")


def add_key(
    database: Database,
    user_name: str,
    name: str,
    scopes: Sequence[str] = ("read", "write"),
    expires_us: int | None = None,
    *,
    caller: Caller | None = None,
) -> keys.NewKey:
    """Makes an API key of a user; its text is in the answer and nowhere else.

    A key never makes one that may do more or lives longer, unless an administrator uses it.

    Raises:
        Refusal: There is no such user (`not_found`) or scope (`invalid_input`), or the caller's own key may not do that
            (`auth`).
    """
    if not scopes or not set(scopes) <= set(keys.SCOPES):
        raise invalid(f"{' '.join(scopes)[:80]!r} are not scopes", hint=f"use some of {', '.join(keys.SCOPES)}")
    if not name.isprintable() or not 1 <= len(name) <= MAX_KEY_NAME_CHARS:
        raise invalid(f"{name[:80]!r} cannot name a key", hint=f"use 1 to {MAX_KEY_NAME_CHARS} printable characters")
    if expires_us is not None and not now_us() < expires_us < 1 << 62:
        raise invalid("a key cannot expire before now")
    if caller is not None and "admin" not in caller.scopes:
        _check_no_more(caller, scopes, expires_us)
    key = keys.make_key()
    ordered = " ".join(scope for scope in keys.SCOPES if scope in scopes)

    def work(connection: nodes.Connection) -> None:
        user = _user(connection, user_name)
        if accounts.count_keys(connection, user.id) >= MAX_KEYS:
            raise conflict(f"{user_name} has {MAX_KEYS} keys already", hint="revoke some")
        if "admin" in scopes and user.role != "admin":
            raise invalid(f"{user_name} is no administrator, so no key of theirs can have the scope admin")
        accounts.insert_key(connection, new_id(), user.id, name, key, ordered, now_us(), expires_us)
        detail = {"user": user_name, "name": name, "scopes": ordered, "expires_us": expires_us}
        audit.record(connection, caller, "key.add", key.prefix, detail)

    database.write(work)
    return key


def revoke_key(connection: nodes.Connection, caller: Caller | None, user_name: str | None, key: str) -> None:
    """Revokes a key, named by its id or its first characters: the next request with it is refused.

    Args:
        connection: Of the transaction.
        caller: Who asks; None is the command line.
        user_name: Whose key it is; None is anybody's.
        key: Id, or prefix as a list of keys shows it.

    Raises:
        Refusal: There is no such key, or it is revoked already (`not_found`).
    """
    found = accounts.key_by_id_or_prefix(connection, key)
    if found is None or found.revoked_us is not None or user_name not in (None, found.user_name):
        raise not_found(f"there is no key {key[:20]!r}")
    accounts.revoke_key(connection, found.id, now_us())
    audit.record(connection, caller, "key.revoke", found.prefix, {"user": found.user_name, "name": found.name})


def _check_no_more(caller: Caller, scopes: Sequence[str], expires_us: int | None) -> None:
    more = sorted(set(scopes) - caller.scopes)
    if more:
        raise forbidden(f"this API key lacks the scope {more[0]!r}, so it cannot give it", hint="use a key that has it")
    if caller.key_expires_us is not None and (expires_us is None or expires_us > caller.key_expires_us):
        raise forbidden(
            "this API key expires, and cannot make one that lives longer", hint="let the new one expire too"
        )


def _domain(user_id: str, shared: str) -> str:
    """The domain of this name, which is never a user's own; without a name the user's own."""
    if not shared:
        return user_id
    if not _DOMAIN.fullmatch(shared):
        raise invalid(f"{shared[:80]!r} cannot name a domain", hint="use 1 to 64 small letters, digits, and . _ -")
    return SHARED_DOMAIN + shared


def shared_domain(user: Any) -> str:
    """The name of the domain that a user shares chunks in; empty if it is their own."""
    return str(user.domain).removeprefix(SHARED_DOMAIN) if user.domain != user.id else ""


def _check_role(role: str) -> str:
    if role not in ROLES:
        raise invalid(f"{role[:40]!r} is no role", hint=f"use {' or '.join(ROLES)}")
    return role


def _user(connection: nodes.Connection, name: str) -> Any:
    user = accounts.user_by_name(connection, name)
    if user is None:
        raise not_found(f"there is no user {name[:80]!r}")
    return user

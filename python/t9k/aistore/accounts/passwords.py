"""Passwords, for the console: argon2id with the parameters of RFC 9106 for memory-constrained machines."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from t9k.aistore.accounts import audit
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.accounts.failures import FailureLimits, address_key, too_many
from t9k.aistore.db import Database, accounts, nodes
from t9k.aistore.errors import invalid, not_found, unauthenticated

MIN_CHARS, MAX_BYTES = 10, 1024

_hasher = PasswordHasher(time_cost=3, memory_cost=64 << 10, parallelism=4)
_at_once = threading.BoundedSemaphore(2)  # each takes 64 MiB and a core


@dataclass(frozen=True)
class Verified:
    """A user whose password was right."""

    user_id: str
    name: str
    role: str


def set_password(database: Database, caller: Caller | None, user_name: str, password: str) -> None:
    """Sets a user's password.

    Raises:
        Refusal: It is too short or long (`invalid_input`), or there is no such user (`not_found`).
    """
    if len(password) < MIN_CHARS or len(password.encode(errors="replace")) > MAX_BYTES:
        raise invalid(f"a password has at least {MIN_CHARS} characters and at most {MAX_BYTES} bytes")
    hashed = _hash(password)

    def work(connection: nodes.Connection) -> None:
        user = accounts.user_by_name(connection, user_name)
        if user is None:
            raise not_found(f"there is no user {user_name[:80]!r}")
        accounts.update_user(connection, user.id, {"password_hash": hashed})
        audit.record(connection, caller, "user.password", user_name)

    database.write(work)


def verify_password(database: Database, limits: FailureLimits, user_name: str, password: str, address: str) -> Verified:
    """The user, if this is their password. Takes as long for a user who is not there.

    An address that failed too often is refused, and where an account is under attack, so is every address that failed
    for it already: one that did not may still try, so that its owner gets in.

    Raises:
        Refusal: It is not (401), or too many have failed (429).
    """
    here = address_key(address)
    account = ("account", user_name[:64])
    both = (*account, *here)
    if limits.is_over(here) or (limits.is_over(account) and limits.failures(both) > 0):
        raise too_many()
    user = database.read(lambda connection: accounts.user_by_name(connection, user_name))
    stored = user.password_hash if user is not None and user.disabled_us is None else None
    is_right = len(password.encode(errors="replace")) <= MAX_BYTES and _is_right(stored or _of_nobody(), password)
    if user is None or stored is None or not is_right:
        limits.note(here, account, both)
        raise unauthenticated("no such user, or another password", hint="try again, or ask an administrator")
    if _hasher.check_needs_rehash(stored):
        rehashed = _hash(password)
        database.write(lambda connection: accounts.update_user(connection, user.id, {"password_hash": rehashed}))
    return Verified(user.id, user.name, user.role)


def _hash(password: str) -> str:
    with _at_once:
        return _hasher.hash(password.encode(errors="replace"))


def _is_right(stored: str, password: str) -> bool:
    try:
        with _at_once:
            return _hasher.verify(stored, password.encode(errors="replace"))
    except (Argon2Error, InvalidHashError):
        return False


@cache
def _of_nobody() -> str:
    return _hash("the password of nobody")

"""The caller of a request, from its API key."""

from __future__ import annotations

import hmac
import logging
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.exc import OperationalError

from t9k.aistore.accounts import keys
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, accounts
from t9k.aistore.errors import forbidden, unauthenticated

log = logging.getLogger("aistore.accounts")

LAST_USE_EVERY_US = 60_000_000
"""A key's last use is written at most this often."""


@dataclass(frozen=True)
class Caller:
    """Who is calling. Rules ask it; nothing else decides what a request may do.

    Attributes:
        user_id: Id of the user; empty for an anonymous caller, who sees only what is public.
        name: Name of the user, the first part of their paths.
        domain: Where their chunks are shared, and their presence told.
        groups: Ids of their groups.
        scopes: What their key may do: read, write, admin.
    """

    user_id: str
    name: str
    role: str
    domain: str
    groups: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    key_id: str = ""
    key_expires_us: int | None = None
    address: str = field(default="", compare=False)
    request_id: str = field(default="", compare=False)

    def needs(self, scope: str) -> None:
        """Refuses a caller whose key lacks a scope; admin also takes the role."""
        if not self.user_id:
            raise unauthenticated()
        if scope not in self.scopes or (scope == "admin" and self.role != "admin"):
            raise forbidden(f"this API key lacks the scope {scope!r}", hint="use a key that has it")


def authenticate(database: Database, key: str) -> Caller:
    """The caller whose API key this is.

    One indexed query; revocation, expiry and disabled users count at once.

    Raises:
        Refusal: It is no valid key (401); all reasons look alike.
    """
    row = find_key(database, key).result()
    caller = admit(key, row)
    if claim_use(row):
        note_use(database, row)
    return caller


def find_key(database: Database, key: str) -> Future[Any]:
    """Begins to look for what is known of a key: with others that come just then, in one query. For `admit`.

    Raises:
        Refusal: It cannot be a key (401).
    """
    if not keys.is_well_formed(key):
        raise unauthenticated()
    return database.query_together(accounts.keys_by_prefix, keys.lookup_prefix(key))


def claim_use(row: Any) -> bool:
    """Whether it is time to `note_use` of a key: told to one of those who found this row together."""
    now = now_us()
    if row.last_used_us is not None and row.last_used_us >= now - LAST_USE_EVERY_US:
        return False
    row.last_used_us = now
    return True


def note_use(database: Database, row: Any) -> None:
    """Writes what `claim_use` told of, if that can be written."""
    try:
        database.write(lambda connection: accounts.touch_key(connection, row.id, row.last_used_us))
    except OperationalError as error:  # a full disk: who only reads needs no room
        log.warning("the last use of a key could not be noted: %s", error.orig)


def admit(key: str, row: Any) -> Caller:
    """The caller whose API key this is, of which `row` is known.

    Raises:
        Refusal: As `authenticate`.
    """
    # Compared even where there is no row, so that time tells nothing.
    is_right = hmac.compare_digest(keys.hash_key(key), bytes(row.hash) if row else bytes(32))
    if row is None or not is_right or row.revoked_us or row.disabled_us:
        raise unauthenticated()
    if row.expires_us is not None and row.expires_us <= now_us():
        raise unauthenticated()
    return Caller(
        user_id=row.user_id,
        name=row.user_name,
        role=row.role,
        domain=row.domain,
        groups=frozenset(row.group_ids),
        scopes=frozenset(row.scopes.split()),
        key_id=row.id,
        key_expires_us=row.expires_us,
    )

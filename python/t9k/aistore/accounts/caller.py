"""The caller of a request, from its API key."""

from __future__ import annotations

import hmac
import logging
from dataclasses import dataclass, field

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
    if not keys.is_well_formed(key):
        raise unauthenticated()
    now = now_us()
    row = database.query(lambda connection: accounts.key_by_prefix(connection, keys.lookup_prefix(key)))
    # Compared even where there is no row, so that time tells nothing.
    is_right = hmac.compare_digest(keys.hash_key(key), bytes(row.hash) if row else bytes(32))
    if row is None or not is_right or row.revoked_us or row.disabled_us:
        raise unauthenticated()
    if row.expires_us is not None and row.expires_us <= now:
        raise unauthenticated()
    if row.last_used_us is None or row.last_used_us < now - LAST_USE_EVERY_US:
        try:
            database.write(lambda connection: accounts.touch_key(connection, row.id, now))
        except OperationalError as error:  # a full disk: who only reads needs no room
            log.warning("the last use of a key could not be noted: %s", error.orig)
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

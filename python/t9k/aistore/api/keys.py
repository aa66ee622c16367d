"""Routes of API keys: the caller's own."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field

from t9k.aistore.accounts.users import add_key, revoke_key
from t9k.aistore.api.context import Reader, ServicesDep, Strict, Writer
from t9k.aistore.api.problems import responses
from t9k.aistore.clock import iso
from t9k.aistore.db import accounts
from t9k.aistore.errors import invalid
from t9k.protocol import MAX_PAGE

router = APIRouter(tags=["keys"])

Scope = Literal["read", "write", "admin"]
KeyId = Annotated[str, Path(pattern="^[0-9A-Za-z_]{17,20}$", description="Id of a key, or its prefix.")]
After = Annotated[str, Query(pattern="^[0-9a-z._-]{0,64}$", description="`next` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]


class Key(Strict):
    """An API key, without what it is."""

    id: str
    user: str
    name: str
    prefix: str
    scopes: list[str]
    created: str
    expires: str | None
    last_used: str | None
    revoked: str | None


class KeyPage(Strict):
    """A part of a list of keys."""

    keys: list[Key]
    next: str | None


class NewKey(Strict):
    """A key to be made; `expires` is a time in ISO 8601."""

    name: str
    scopes: list[Scope] = Field(default=["read", "write"])
    expires: str | None = None

    @property
    def expires_us(self) -> int | None:
        """When it expires.

        Raises:
            Refusal: That is no time (`invalid_input`).
        """
        if self.expires is None:
            return None
        try:
            moment = datetime.fromisoformat(self.expires)
            return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000_000)
        except (ValueError, OverflowError):
            raise invalid(f"{self.expires[:40]!r} is no time", hint="write 2026-01-31T12:00:00Z") from None


class MadeKey(Strict):
    """A key that was just made; `api_key` is shown only now."""

    api_key: str
    prefix: str


def key_page(rows: list[Any], limit: int) -> KeyPage:
    """A page for an answer, of one row more than it has."""
    shown = rows[:limit]
    return KeyPage(keys=[_key(row) for row in shown], next=shown[-1].id if len(rows) > limit else None)


def _key(row: Any) -> Key:
    return Key(
        id=row.id,
        user=row.user_name,
        name=row.name,
        prefix=row.prefix,
        scopes=row.scopes.split(),
        created=iso(row.created_us) or "",
        expires=iso(row.expires_us),
        last_used=iso(row.last_used_us),
        revoked=iso(row.revoked_us),
    )


@router.get("/keys", responses=responses())
def list_keys(caller: Reader, services: ServicesDep, limit: Limit = 100, cursor: After = "") -> KeyPage:
    """List the caller's API keys."""
    rows = services.database.read(lambda connection: accounts.keys_page(connection, caller.name, cursor, limit + 1))
    return key_page(rows, limit)


@router.post("/keys", status_code=201, responses=responses(409))
def post_key(caller: Writer, services: ServicesDep, body: NewKey) -> MadeKey:
    """Make an API key of the caller, which may do no more and lives no longer than theirs."""
    made = add_key(services.database, caller.name, body.name, body.scopes, body.expires_us, caller=caller)
    return MadeKey(api_key=made.text, prefix=made.prefix)


@router.delete("/keys/{key_id}", status_code=204, responses=responses())
def delete_key(caller: Writer, services: ServicesDep, key_id: KeyId) -> None:
    """Revoke an API key of the caller, at once."""
    services.database.write(lambda connection: revoke_key(connection, caller, caller.name, key_id))

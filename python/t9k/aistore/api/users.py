"""Routes of administrators: users, their keys, groups, the audit trail."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import Field
from sqlalchemy.engine import Connection

from t9k.aistore.accounts import groups, users
from t9k.aistore.api.context import Admin, ServicesDep, Strict
from t9k.aistore.api.keys import After, KeyId, KeyPage, Limit, MadeKey, NewKey, key_page
from t9k.aistore.api.problems import responses
from t9k.aistore.clock import iso
from t9k.aistore.db import accounts
from t9k.aistore.errors import not_found

router = APIRouter(tags=["administration"])

Name = Annotated[str, Path(pattern=r"^[a-z0-9._-]{1,64}$")]
AuditCursor = Annotated[str | None, Query(pattern="^[0-9a-z]{20}$", description="`next` of the page before.")]


class User(Strict):
    """A user."""

    id: str
    name: str
    role: str
    shares_chunks_in: str
    created: str
    disabled: str | None


class UserPage(Strict):
    """A part of the list of users."""

    users: list[User]
    next: str | None


class NewUser(Strict):
    """A user to be made."""

    name: str
    role: Literal["admin", "user"] = "user"


class UserChange(Strict):
    """What of a user changes; what is left out stays."""

    role: Literal["admin", "user"] | None = None
    disabled: bool | None = None
    shares_chunks_in: Annotated[str, Field(pattern=r"^[a-z0-9._-]{0,64}$")] | None = None


class Group(Strict):
    """A group and who is in it."""

    name: str
    created: str
    members: list[str]


class GroupPage(Strict):
    """A part of the list of groups."""

    groups: list[Group]
    next: str | None


class NewGroup(Strict):
    """A group to be made."""

    name: str


class AuditRow(Strict):
    """What was done to what, by whom; without an actor it was the command line."""

    id: str
    at: str
    actor: str | None
    action: str
    target: str
    detail: dict[str, Any] | None
    address: str | None
    request_id: str | None


class AuditPage(Strict):
    """A part of the audit trail."""

    rows: list[AuditRow]
    next: str | None


@router.get("/users", responses=responses())
def list_users(_: Admin, services: ServicesDep, limit: Limit = 100, cursor: After = "") -> UserPage:
    """List users by name."""
    rows = services.database.read(lambda connection: accounts.users_page(connection, cursor, limit + 1))
    shown = rows[:limit]
    return UserPage(users=[_user(row) for row in shown], next=shown[-1].name if len(rows) > limit else None)


@router.post("/users", status_code=201, responses=responses(409))
def post_user(caller: Admin, services: ServicesDep, body: NewUser) -> User:
    """Make a user with an empty tree."""
    users.add_user(services.database, body.name, body.role, caller=caller)
    return services.database.read(lambda connection: _user_named(connection, body.name))


@router.get("/users/{user}", responses=responses())
def get_user(_: Admin, services: ServicesDep, user: Name) -> User:
    """Get a user."""
    return services.database.read(lambda connection: _user_named(connection, user))


@router.patch("/users/{user}", responses=responses(409))
def patch_user(caller: Admin, services: ServicesDep, user: Name, body: UserChange) -> User:
    """Change a user's role; disable or enable them; choose with whom their uploads share chunks."""

    def work(connection: Connection) -> User:
        users.change_user(connection, caller, user, **body.model_dump())
        return _user_named(connection, user)

    return services.database.write(work)


@router.get("/users/{user}/keys", responses=responses())
def list_user_keys(_: Admin, services: ServicesDep, user: Name, limit: Limit = 100, cursor: After = "") -> KeyPage:
    """List a user's API keys."""

    def work(connection: Connection) -> list[Any]:
        _user_named(connection, user)
        return accounts.keys_page(connection, user, cursor, limit + 1)

    return key_page(services.database.read(work), limit)


@router.post("/users/{user}/keys", status_code=201, responses=responses(409))
def post_user_key(caller: Admin, services: ServicesDep, user: Name, body: NewKey) -> MadeKey:
    """Make an API key of a user."""
    made = users.add_key(services.database, user, body.name, body.scopes, body.expires_us, caller=caller)
    return MadeKey(api_key=made.text, prefix=made.prefix)


@router.delete("/users/{user}/keys/{key_id}", status_code=204, responses=responses())
def delete_user_key(caller: Admin, services: ServicesDep, user: Name, key_id: KeyId) -> None:
    """Revoke an API key of a user, at once."""
    services.database.write(lambda connection: users.revoke_key(connection, caller, user, key_id))


@router.get("/groups", responses=responses())
def list_groups(_: Admin, services: ServicesDep, limit: Limit = 100, cursor: After = "") -> GroupPage:
    """List groups by name, with their members."""

    def work(connection: Connection) -> GroupPage:
        rows = accounts.groups_page(connection, cursor, limit + 1)
        shown = rows[:limit]
        following = shown[-1].name if len(rows) > limit else None
        return GroupPage(groups=[_group(connection, row) for row in shown], next=following)

    return services.database.read(work)


@router.post("/groups", status_code=201, responses=responses(409))
def post_group(caller: Admin, services: ServicesDep, body: NewGroup) -> Group:
    """Make a group."""

    def work(connection: Connection) -> Group:
        groups.add_group(connection, caller, body.name)
        return _group(connection, groups.find_group(connection, body.name))

    return services.database.write(work)


@router.get("/groups/{group}", responses=responses())
def get_group(_: Admin, services: ServicesDep, group: Name) -> Group:
    """Get a group and its members."""
    return services.database.read(lambda connection: _group(connection, groups.find_group(connection, group)))


@router.delete("/groups/{group}", status_code=204, responses=responses())
def delete_group(caller: Admin, services: ServicesDep, group: Name) -> None:
    """Remove a group, and every share with it."""
    services.database.write(lambda connection: groups.remove_group(connection, caller, group))


@router.put("/groups/{group}/members/{user}", responses=responses())
def put_member(caller: Admin, services: ServicesDep, group: Name, user: Name) -> Group:
    """Put a user into a group."""

    def work(connection: Connection) -> Group:
        groups.add_member(connection, caller, group, user)
        return _group(connection, groups.find_group(connection, group))

    return services.database.write(work)


@router.delete("/groups/{group}/members/{user}", status_code=204, responses=responses())
def delete_member(caller: Admin, services: ServicesDep, group: Name, user: Name) -> None:
    """Take a user out of a group."""
    services.database.write(lambda connection: groups.remove_member(connection, caller, group, user))


@router.get("/audit", responses=responses())
def list_audit(_: Admin, services: ServicesDep, limit: Limit = 100, cursor: AuditCursor = None) -> AuditPage:
    """List what was done that matters to security, the latest first."""
    rows = services.database.read(lambda connection: accounts.audit_page(connection, cursor, limit + 1))
    shown = rows[:limit]
    return AuditPage(rows=[_audit_row(row) for row in shown], next=shown[-1].id if len(rows) > limit else None)


def _user_named(connection: Connection, name: str) -> User:
    row = accounts.user_by_name(connection, name)
    if row is None:
        raise not_found(f"there is no user {name!r}")
    return _user(row)


def _user(row: Any) -> User:
    return User(
        id=row.id,
        name=row.name,
        role=row.role,
        shares_chunks_in=users.shared_domain(row),
        created=iso(row.created_us) or "",
        disabled=iso(row.disabled_us),
    )


def _group(connection: Connection, row: Any) -> Group:
    return Group(name=row.name, created=iso(row.created_us) or "", members=accounts.members(connection, row.id))


def _audit_row(row: Any) -> AuditRow:
    return AuditRow(
        id=row.id,
        at=iso(row.at_us) or "",
        actor=row.actor or row.actor_id,
        action=row.action,
        target=row.target,
        detail=row.detail,
        address=row.address,
        request_id=row.request_id,
    )

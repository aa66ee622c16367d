"""Versions of artifacts: found by number, alias or digest, moved between aliases, kept or let go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import now_us
from t9k.aistore.db import nodes
from t9k.aistore.db import versions as rows
from t9k.aistore.db.nodes import Connection
from t9k.aistore.db.sharing import seen_owners
from t9k.aistore.db.tables.artifacts import BAD, CHECKING, COMPLETE
from t9k.aistore.errors import Refusal, conflict, invalid, not_found
from t9k.aistore.tree.access import Access, Node, node_at, node_for
from t9k.aistore.tree.changes import check_version
from t9k.aistore.tree.views import NodeView, visible_views

LATEST = "latest"
"""The alias that always is the highest number; nobody moves it."""

MAX_ALIASES = 1000
"""Of one artifact."""

MAX_HOLDERS = 1000
"""Artifacts with one object that are looked at for one answer: of what everybody has there is no end."""

MAX_BAD_NAMED = 100
"""Digests of bad objects that the description of a version has."""

_ALIAS = re.compile(r"(?=[^0-9]|.*[^0-9])[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_DIGEST_PREFIX = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Version:
    """A version of an artifact that the caller may see.

    Attributes:
        number: Counts from 1; `latest` is the highest.
        manifest_digest: What it is: equal content, equal digest.
        state: ``checking`` until the server has hashed all objects whole, then ``complete`` or ``bad``.
        bad_objects: Digests of objects whose stored chunks are not their bytes, at most 100.
        object_count: Distinct objects.
        size_bytes: Of these objects.
    """

    node: Node
    number: int
    manifest_id: int
    domain_id: int
    manifest_digest: bytes
    manifest_key: str
    manifest_bytes: int
    state: str
    bad_objects: list[bytes]
    object_count: int
    size_bytes: int
    metadata: dict[str, Any]
    aliases: list[str]
    pinned: bool
    created_us: int


def check_alias(alias: str) -> str:
    """An alias that a user may give.

    Raises:
        Refusal: It is none (`invalid_input`).
    """
    if alias == LATEST:
        raise invalid("latest is always the newest version", hint="use another alias")
    if not _ALIAS.fullmatch(alias):
        raise invalid(
            f"{alias[:80]!r} cannot be an alias", hint="use 1 to 128 letters, digits, and . _ - inside; not only digits"
        )
    return alias


def artifact_for(connection: Connection, caller: Caller, node_id: str, need: Access = Access.VIEW) -> Node:
    """The artifact of an id, if the caller may do what they need.

    Raises:
        Refusal: As `node_for`, or it is no artifact (`not_found`).
    """
    node = node_for(connection, caller, node_id, need)
    if node.kind != "Artifact":
        raise not_found(f"node {node_id} is a {node.kind}, not an artifact")
    return node


def find_version(connection: Connection, caller: Caller, node_id: str, number: int | None) -> Version:
    """A version of the artifact of an id; without a number the latest.

    Raises:
        Refusal: There is none that the caller may see (`not_found`).
    """
    node = artifact_for(connection, caller, node_id)
    return _described(connection, node, rows.version(connection, node.id, number), number or LATEST)


def resolve(connection: Connection, caller: Caller, path: str) -> Version:
    """The version at ``/user/…/name``, ``…/name:alias``, ``…/name:number`` or ``…/name@digest``.

    A shortcut at the end is followed, too. A digest may be cut after 8 digits or more. A name that has a colon or an
    at sign itself is taken for that first.

    Raises:
        Refusal: There is none that the caller may see (`not_found`), or a short digest names two (`conflict`).
    """
    try:
        node = node_at(connection, caller, path, follow=True)
        wanted = ""
    except Refusal as refusal:
        base, mark, wanted = _parted(path)
        if refusal.kind != "not_found" or not mark:
            raise
        wanted = mark + wanted
        node = node_at(connection, caller, base, follow=True)
    if node.kind != "Artifact":
        raise not_found(f"there is a {node.kind} at {path}, not an artifact")
    return _described(connection, node, _version_row(connection, node, wanted), wanted[1:] or LATEST)


@dataclass(frozen=True)
class Holders:
    """Artifacts that have an object.

    Attributes:
        found: The artifact, and its newest version that has the object.
        is_truncated: Whether there may be more.
    """

    found: list[tuple[NodeView, int]]
    is_truncated: bool


def holders(connection: Connection, caller: Caller, digest: bytes, limit: int) -> Holders:
    """The artifacts with an object that the caller may see, the oldest first.

    Only trees are looked at of which the caller may see something: how long others' would take tells nothing.
    """
    owners = seen_owners(caller.user_id, sorted(caller.groups))
    numbers = {row.node_id: row.number for row in rows.holding(connection, digest, owners, MAX_HOLDERS + 1)}
    seen = sorted(visible_views(connection, caller, numbers).values(), key=lambda view: view.id)
    is_truncated = len(numbers) > MAX_HOLDERS or len(seen) > limit
    return Holders([(view, numbers[view.id]) for view in seen[:limit]], is_truncated)


def _parted(path: str) -> tuple[str, str, str]:
    folder, slash, name = path.rpartition("/")
    at = max(name.rfind(":"), name.rfind("@"))
    if at < 1:
        return path, "", ""
    return folder + slash + name[:at], name[at], name[at + 1 :]


def _version_row(connection: Connection, node: Node, wanted: str) -> Any:
    mark, text = wanted[:1], wanted[1:]
    if mark == "@":
        if not _DIGEST_PREFIX.fullmatch(text):
            raise invalid(f"{text[:80]!r} is not a digest", hint="use 8 to 64 hex digits of the manifest's digest")
        found = rows.by_digest(
            connection, node.id, bytes.fromhex(text.ljust(64, "0")), bytes.fromhex(text.ljust(64, "f"))
        )
        if len(found) > 1:
            raise conflict(f"two versions of {node.name} begin with {text}", hint="use more digits")
        return found[0] if found else None
    if not text or text == LATEST:
        return rows.version(connection, node.id)
    if text.isascii() and text.isdecimal():
        return rows.version(connection, node.id, int(text[:9]))
    number = rows.by_alias(connection, node.id, text)
    return None if number is None else rows.version(connection, node.id, number)


def _described(connection: Connection, node: Node, row: Any, wanted: object) -> Version:
    if row is None:
        raise not_found(f"{node.name} has no version {wanted}")
    return describe(connection, node, [row])[0]


def describe(connection: Connection, node: Node, found: Sequence[Any]) -> list[Version]:
    """Versions of one artifact from their rows."""
    names = rows.aliases_of(connection, node.id, [row.number for row in found])
    newest = rows.version(connection, node.id)
    latest = newest.number if newest is not None else 0
    return [
        Version(
            node=node,
            number=row.number,
            manifest_id=row.manifest_id,
            domain_id=row.domain_id,
            manifest_digest=bytes(row.digest),
            manifest_key=row.blob_key,
            manifest_bytes=row.manifest_bytes,
            state=BAD if row.bad_count else CHECKING if row.checking_count else COMPLETE,
            bad_objects=rows.bad_objects(connection, row.manifest_id, MAX_BAD_NAMED) if row.bad_count else [],
            object_count=row.object_count,
            size_bytes=row.size_bytes,
            metadata=row.metadata,
            aliases=([LATEST] if row.number == latest else []) + names.get(row.number, []),
            pinned=bool(row.pinned),
            created_us=row.created_us,
        )
        for row in found
    ]


def list_versions(
    connection: Connection, caller: Caller, node_id: str, before: int | None, limit: int
) -> list[Version]:
    """Versions of an artifact, the latest first, those below a number.

    Raises:
        Refusal: The caller may not see the artifact (`not_found`).
    """
    node = artifact_for(connection, caller, node_id)
    return describe(connection, node, rows.page(connection, node.id, before, limit))


IfMatch = frozenset[int] | None
"""Versions of the node, of which it must have one; None is any."""


def _changed(connection: Connection, caller: Caller, node_id: str, if_match: IfMatch) -> Node:
    """The artifact of an id, once the caller may change it and it is as they have seen it; the change is counted."""
    node = artifact_for(connection, caller, node_id, Access.EDIT)
    check_version(node, if_match)
    nodes.update(connection, node.id, now_us())
    return node


def _version_of(connection: Connection, node: Node, number: int) -> Version:
    return _described(connection, node, rows.version(connection, node.id, number), number)


def move_alias(
    connection: Connection, caller: Caller, node_id: str, alias: str, number: int, if_match: IfMatch = None
) -> None:
    """Makes an alias name a version, wherever it was before.

    Raises:
        Refusal: The caller may not, there is no such version, it is no alias, or the artifact has changed
            (`conflict`, 412).
    """
    check_alias(alias)
    node = _changed(connection, caller, node_id, if_match)
    _version_of(connection, node, number)
    put_alias(connection, node.id, alias, number)


def put_alias(connection: Connection, node_id: str, alias: str, number: int) -> None:
    """Moves a checked alias of an artifact, if it has not too many.

    Raises:
        Refusal: It has (`conflict`).
    """
    is_new = rows.by_alias(connection, node_id, alias) is None
    if is_new and rows.count_aliases(connection, node_id) >= MAX_ALIASES:
        raise conflict(f"an artifact has at most {MAX_ALIASES} aliases", hint="remove some")
    rows.move_alias(connection, node_id, alias, number)


def remove_alias(connection: Connection, caller: Caller, node_id: str, alias: str, if_match: IfMatch = None) -> None:
    """Takes an alias away.

    Raises:
        Refusal: The caller may not, there is none, or the artifact has changed (`conflict`, 412).
    """
    node = _changed(connection, caller, node_id, if_match)
    if not rows.delete_alias(connection, node.id, check_alias(alias)):
        raise not_found(f"{node.name} has no alias {alias}")


def pin(
    connection: Connection, caller: Caller, node_id: str, number: int, *, pinned: bool, if_match: IfMatch = None
) -> None:
    """Keeps a version whatever the retention says, or no more.

    Raises:
        Refusal: The caller may not, there is no such version, or the artifact has changed (`conflict`, 412).
    """
    _version_of(connection, _changed(connection, caller, node_id, if_match), number)
    rows.pin(connection, node_id, number, pinned=pinned)


def remove_version(connection: Connection, caller: Caller, node_id: str, number: int, if_match: IfMatch = None) -> None:
    """Removes a version for good, and its aliases; not the only one, which goes with its node.

    Raises:
        Refusal: The caller may not, there is no such version, it is pinned or the only one (`conflict`), or the
            artifact has changed (`conflict`, 412).
    """
    version = _version_of(connection, _changed(connection, caller, node_id, if_match), number)
    if version.pinned:
        raise conflict(f"version {number} is pinned", hint="unpin it first")
    if len(rows.page(connection, node_id, None, 2)) < 2:
        raise conflict("an artifact has at least one version", hint="delete the artifact")
    rows.delete_version(connection, node_id, number)


@dataclass(frozen=True)
class Retention:
    """How long versions are kept. The latest, pinned ones and those with an alias always stay.

    Attributes:
        keep_last: How many of the newest; None is all.
        ttl_s: How old they get, in seconds; None is as old as they like.
    """

    keep_last: int | None
    ttl_s: int | None


def get_retention(connection: Connection, caller: Caller, node_id: str) -> Retention:
    """What holds for an artifact.

    Raises:
        Refusal: The caller may not see it (`not_found`).
    """
    row = rows.retention(connection, artifact_for(connection, caller, node_id).id)
    return Retention(None, None) if row is None else Retention(row.keep_last, row.ttl_s)


def set_retention(
    connection: Connection, caller: Caller, node_id: str, retention: Retention, if_match: IfMatch = None
) -> None:
    """Changes what holds for an artifact; it takes effect when the collector runs.

    Raises:
        Refusal: The caller may not, or the artifact has changed (`conflict`, 412).
    """
    node = _changed(connection, caller, node_id, if_match)
    rows.set_retention(connection, node.id, retention.keep_last, retention.ttl_s)

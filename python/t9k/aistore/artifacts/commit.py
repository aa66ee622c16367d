"""`commit`: the transaction that makes an artifact's version from a manifest whose objects are there."""

from __future__ import annotations

import hashlib
import itertools
import struct
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from t9k.aistore import engine
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.artifacts import leases
from t9k.aistore.artifacts.packs import blob_key, discard, is_lost
from t9k.aistore.artifacts.versions import artifact_for, check_alias, put_alias
from t9k.aistore.blobs.store import BlobStore
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, bulk, nodes, objects, versions
from t9k.aistore.db import leases as lease_rows
from t9k.aistore.db.nodes import Connection
from t9k.aistore.documents import check_document
from t9k.aistore.errors import Refusal, conflict, integrity, invalid
from t9k.aistore.tree.access import Access
from t9k.aistore.tree.names import check_description, check_labels
from t9k.aistore.tree.placement import Placement, place
from t9k.protocol import DIGEST_BYTES, MAX_MANIFEST_ENTRIES
from t9k.protocol.manifests import entry_count

MAX_MISSING_NAMED = 1000
"""Digests that a refusal names; the client sends those, and is told of more at its next try."""

MAX_SIZE_BYTES = 1 << 62
"""Of an object, and of all objects of a manifest: what the database holds as a signed integer, with room for sums."""

EMPTY = bytes.fromhex("af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262")
"""BLAKE3 of no bytes."""


@dataclass(frozen=True)
class Wish:
    """What a commit asks for beside the manifest.

    Attributes:
        placement: Where the artifact goes; None is a new version of `artifact_id`.
        manifest_digest: Of the manifest, which may be left out if the domain has it.
        metadata: Kept with the version as it came.
        labels: Of a node that is made.
        description: Of a node that is made.
        aliases: Moved to the version.
        key: The request's idempotency key.
        lease: To be renewed, if any.
    """

    placement: Placement | None
    artifact_id: str | None
    manifest_digest: bytes
    key: str
    lease: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    labels: list[str] = field(default_factory=list)
    description: str = ""
    aliases: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Committed:
    """What a commit made, or what it found: the node, the version's number, and whether it is new."""

    node_id: str
    number: int
    created: bool


class MissingError(Refusal):
    """A commit that names what is not there.

    Attributes:
        missing: Digests of objects and chunks, at most `MAX_MISSING_NAMED`, in hex.
        missing_manifest: The manifest was left out and is not there.
    """

    def __init__(self, message: str, missing: list[str], *, missing_manifest: bool = False) -> None:
        super().__init__("conflict", message, hint="send what is missing, then commit again")
        self.members = {"missing": missing, "missing_manifest": missing_manifest}


@dataclass(frozen=True)
class _Content:
    """A manifest that came with a commit, checked as far as that needs no database.

    Attributes:
        digest: Of the manifest.
        data: The manifest.
        names: Digests of its objects, each once, one behind the other: a third of what they take as a list.
        sizes: Of the objects, as u64.
        size_bytes: Of all of them.
        tables: Chunk tables of some of them.
    """

    digest: bytes
    data: memoryview
    names: bytes
    sizes: bytes
    size_bytes: int
    tables: dict[bytes, _Table]


@dataclass(frozen=True)
class _Table:
    data: bytes
    size_bytes: int
    digests: list[bytes]
    lengths: list[int]


def commit(
    database: Database, blobs: BlobStore, caller: Caller, wish: Wish, body: memoryview, lease_s: int
) -> Committed:
    """Makes a version of an artifact, durable when this returns, or nothing.

    Args:
        database: Where the version goes.
        blobs: Where the manifest goes.
        caller: Who commits, and whose domain has the objects.
        wish: What is asked for.
        body: What follows the JSON: length (u64) and bytes of the manifest, then digest, length (u64) and bytes of
            each chunk table.
        lease_s: How long a lease lives after its last use.

    Raises:
        MissingError: Something that the manifest needs is not there.
        Refusal: The wish or the body is not as it should be; the caller may not; the name is taken.
    """
    wish = _checked(wish)
    content = _parse(body, wish.manifest_digest)
    key: str | None = None

    def work(connection: Connection) -> Committed | None:
        if key is not None and is_lost(connection, blobs, key):
            return None
        before = versions.answered(connection, caller.user_id, wish.key)
        if before is not None:
            if bytes(before.manifest_digest) != wish.manifest_digest:
                raise conflict("this Idempotency-Key was used for another commit", hint="use a new one")
            return Committed(before.node_id, before.number, bool(before.created))
        if wish.lease is not None:
            with suppress(Refusal):  # one that has ended is no matter: everything is looked at again here
                leases.hold(connection, caller, wish.lease, lease_s)
        domain = lease_rows.make_domain(connection, caller.domain)
        committed = _place(connection, caller, wish, lambda: _manifest(connection, domain, wish, content, key))
        versions.note_answer(
            connection,
            user_id=caller.user_id,
            key=wish.key,
            manifest_digest=wish.manifest_digest,
            node_id=committed.node_id,
            number=committed.number,
            created=committed.created,
            at_us=now_us(),
        )
        return committed

    committed = None
    while committed is None:  # again if a sweep took the blob for one of an upload that died
        if content is not None:
            key = blob_key("manifests")
            blobs.put_if_absent(key, content.data)
        try:
            committed = database.write(work)
        except Refusal:
            discard(blobs, key)
            raise
    if key is not None and not database.read(versions.has_manifest_blob, key):
        discard(blobs, key)
    return committed


def _checked(wish: Wish) -> Wish:
    """The same with its labels as a node has them.

    Raises:
        Refusal: A node or a version cannot have that (`invalid_input`).
    """
    for alias in wish.aliases:
        check_alias(alias)
    check_document(wish.metadata, "metadata")
    return replace(wish, labels=check_labels(wish.labels), description=check_description(wish.description))


def _parse(body: memoryview, manifest_digest: bytes) -> _Content | None:
    """The manifest and tables of a commit; None if they were left out."""
    check_start(body)
    manifest, rest = _part(body)
    if not manifest:
        if rest:
            raise invalid("there are chunk tables but no manifest")
        return None
    try:
        if engine.digest(manifest) != manifest_digest:
            raise integrity("the manifest is not that of manifest_digest")
        names, sizes = engine.manifest_objects(manifest)
        size_bytes = sum(size for (size,) in struct.iter_unpack("<Q", sizes))
        if size_bytes > MAX_SIZE_BYTES:
            raise invalid(f"the objects of the manifest have more than {MAX_SIZE_BYTES} bytes")
        count = len(sizes) // 8
        given = list(itertools.islice(_tables(rest), count + 1))
        if len(given) > count:
            raise invalid(f"there are more chunk tables than the {count} objects of the manifest")
        described = {digest for digest, _ in given}
        rows = (row for part in _parts(names, sizes) for row in zip(*part, strict=True))
        size_of = {digest: size for digest, size in rows if digest in described}
        tables = {digest: _table(digest, data, size_of.get(digest)) for digest, data in given}
    except engine.EngineError as error:
        raise integrity(error.message, error.hint) from None
    return _Content(manifest_digest, manifest, names, sizes, size_bytes, tables)


def _parts(names: bytes, sizes: bytes) -> Iterator[tuple[list[bytes], list[int]]]:
    """Digests and sizes of a manifest's objects, as many at a time as one statement takes."""
    count = len(sizes) // 8
    for start in range(0, count, bulk.BATCH_ROWS):
        rows = min(bulk.BATCH_ROWS, count - start)
        digests = bulk.split(memoryview(names)[start * DIGEST_BYTES : (start + rows) * DIGEST_BYTES])
        yield digests, list(struct.unpack_from(f"<{rows}Q", sizes, start * 8))


def check_start(body: memoryview) -> None:
    """Looks at the first bytes of what `commit` takes as its body, so that a manifest that is too long need not come.

    Raises:
        Refusal: The manifest says that it has more entries than the server takes (`invalid_input`, 413).
    """
    entries = entry_count(body[8:])
    if int.from_bytes(body[:8], "little") and entries is not None and entries > MAX_MANIFEST_ENTRIES:
        raise Refusal(
            "invalid_input",
            f"the manifest has {entries} entries, and an artifact here has at most {MAX_MANIFEST_ENTRIES}",
            hint="put small files into archives, or make several artifacts",
            status=413,
        )


def _part(body: memoryview) -> tuple[memoryview, memoryview]:
    """A part that its length (u64) stands before, and what follows."""
    length = int.from_bytes(body[:8], "little")
    if len(body) < 8 or length > len(body) - 8:
        raise invalid("the body is shorter than it says")
    return body[8 : 8 + length], body[8 + length :]


def _tables(body: memoryview) -> Iterator[tuple[bytes, bytes]]:
    while body:
        digest = bytes(body[:DIGEST_BYTES])
        table, body = _part(body[DIGEST_BYTES:])
        yield digest, bytes(table)


def _table(digest: bytes, data: bytes, size_bytes: int | None) -> _Table:
    if size_bytes is None:
        raise invalid(f"there is a chunk table of {digest.hex()}, which the manifest does not name")
    said, names, lengths = engine.parse_chunk_table(data)
    if said != size_bytes:
        raise integrity(f"object {digest.hex()} has {size_bytes} bytes in the manifest and {said} in its chunk table")
    return _Table(data, said, bulk.split(names), [length for (length,) in struct.iter_unpack("<I", lengths)])


def _manifest(connection: Connection, domain: int, wish: Wish, content: _Content | None, key: str | None) -> int:
    """The number of the manifest, added if it is not there; all its objects are."""
    known = versions.complete_manifest(connection, domain, wish.manifest_digest)
    if known is not None:
        return int(known.id)
    if content is None:
        raise MissingError(f"manifest {wish.manifest_digest.hex()} is not known as a whole", [], missing_manifest=True)
    numbers, checking = _objects(connection, domain, content)
    return versions.insert_manifest(
        connection,
        numbers,
        domain_id=domain,
        digest=content.digest,
        blob_key=key,
        manifest_bytes=len(content.data),
        size_bytes=content.size_bytes,
        checking_count=checking,
        bad_count=0,
        created_us=now_us(),
    )


def _objects(connection: Connection, domain: int, content: _Content) -> tuple[array[int], int]:
    """Numbers of the manifest's objects, all known or described by chunks that are there; how many are described."""
    numbers, checking, missing = array("q"), 0, list[bytes]()
    for digests, sizes in _parts(content.names, content.sizes):
        found, described, gone = _part_objects(connection, domain, digests, sizes, content.tables)
        missing.extend(gone)
        checking += described
        if not missing:
            numbers.extend(found[at] for at in range(len(digests)))
    if missing:
        names = list(dict.fromkeys(missing))
        raise MissingError(
            f"{len(names)} of the objects and chunks that the manifest needs are not there",
            [digest.hex() for digest in names[:MAX_MISSING_NAMED]],
        )
    return numbers, checking


def _part_objects(
    connection: Connection, domain: int, digests: list[bytes], sizes: list[int], tables: dict[bytes, _Table]
) -> tuple[dict[int, int], int, list[bytes]]:
    """Numbers of some objects by their index, how many of them are described, and the digests of what is missing."""
    found = _known(connection, domain, digests, sizes, range(len(digests)))
    rest = [at for at in range(len(digests)) if at not in found]
    single = [at for at in rest if digests[at] not in tables]
    if single:
        for at in single:
            if sizes[at] == 0 and digests[at] == EMPTY:
                objects.put_empty(connection, domain, EMPTY, now_us())
        objects.put_single(connection, domain, [digests[at] for at in single], [sizes[at] for at in single], now_us())
        found |= _known(connection, domain, digests, sizes, single)
    missing = [digests[at] for at in single if at not in found]
    described = [at for at in rest if digests[at] in tables]
    for at in described:
        found[at], gone = _described(connection, domain, digests[at], tables[digests[at]])
        missing.extend(gone)
    return found, len(described), missing


def _known(
    connection: Connection, domain: int, digests: list[bytes], sizes: list[int], places: Sequence[int]
) -> dict[int, int]:
    """Those of some objects that were hashed whole, by their index."""
    found: dict[int, int] = {}
    for row in objects.complete(connection, domain, [digests[at] for at in places]):
        at = places[row.position]
        if row.size_bytes != sizes[at]:
            name = digests[at].hex()
            raise integrity(f"object {name} has {row.size_bytes} bytes, and {sizes[at]} in the manifest")
        found[at] = min(row.id, found.get(at, row.id))
    return found


def _described(connection: Connection, domain: int, digest: bytes, table: _Table) -> tuple[int, list[bytes]]:
    """The number of an object that is cut as a table says, and those of its chunks that are not there."""
    table_hash = hashlib.sha256(table.data).digest()
    before = objects.by_table(connection, domain, digest, table_hash)
    if before is not None:
        if before.state == "bad":
            raise integrity(
                f"object {digest.hex()}: the chunks of its table were hashed, and are not it",
                hint="its file or its chunk table is damaged: add the file again",
            )
        return int(before.id), []
    number = objects.put_described(connection, domain, digest, table.size_bytes, table.data, table_hash, now_us())
    return number, objects.put_chunks_of(connection, domain, number, table.digests, table.lengths)


def _place(connection: Connection, caller: Caller, wish: Wish, manifest: Any) -> Committed:
    """Makes the node or finds it, and its next version of what `manifest` answers; it is called if it is needed."""
    if wish.placement is not None:
        placed = place(connection, caller, wish.placement, "Artifact")
        node_id, is_new = placed.node_id, placed.created
        if not is_new:
            there = versions.version(connection, node_id)
            return Committed(node_id, there.number if there is not None else 0, created=False)
        nodes.update(connection, node_id, now_us(), description=wish.description)
        nodes.set_labels(connection, node_id, wish.labels)
    elif wish.artifact_id is not None:
        node_id = artifact_for(connection, caller, wish.artifact_id, Access.EDIT).id
    else:
        raise invalid("a commit names a placement or an artifact_id")
    newest = versions.version(connection, node_id)
    if newest is not None and bytes(newest.digest) == wish.manifest_digest and not newest.bad_count:
        number, created = newest.number, False
    else:
        number, created = versions.next_number(connection, node_id), True
        if wish.placement is None:
            nodes.update(connection, node_id, now_us())
        versions.insert_version(
            connection,
            node_id=node_id,
            number=number,
            manifest_id=manifest(),
            metadata=wish.metadata,
            created_us=now_us(),
            created_by=caller.user_id,
            pinned=False,
        )
    for alias in wish.aliases:
        put_alias(connection, node_id, alias, number)
    return Committed(node_id, number, created)

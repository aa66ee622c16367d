"""`aistore check`: whether database and blobs are what they say of each other. Changes nothing.

May run beside a server: what is deleted meanwhile is no problem.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from t9k.aistore import engine
from t9k.aistore.artifacts.gc import ORPHAN_AGE_US
from t9k.aistore.blobs.store import BlobStore
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, compaction, consistency, garbage, packs

_ROWS = 1000


@dataclass(frozen=True)
class Problem:
    """Something that is not as it should be.

    Attributes:
        kind: ``missing``, ``size``, ``damaged``, ``rows``, ``bad`` (a client's lie that was found out) or
            ``orphan`` (a blob that nothing names, which the collector deletes); the last two lose nothing.
        what: The pack, manifest, object or blob.
        detail: What is wrong with it.
    """

    kind: str
    what: str
    detail: str

    @property
    def is_loss(self) -> bool:
        """Whether somebody's data may be lost."""
        return self.kind not in ("bad", "orphan")


def check(
    database: Database, blobs: BlobStore, *, read: bool = False, report: Callable[[int, int], None] = lambda *_: None
) -> Iterator[Problem]:
    """Looks at every pack, manifest and object; yields what is wrong.

    Args:
        database: To be checked.
        blobs: To be checked.
        read: Read every blob and hash every chunk, too.
        report: Told after each blob how many there were, and the bytes that they have.
    """
    seen = _Seen(report)
    for row in _all(database, consistency.packs_from):
        yield from _check_blob(blobs, row.blob_key, row.size_bytes, f"pack {bytes(row.digest).hex()}", database, seen)
        if read:
            yield from _check_pack(database, blobs, row)
    for row in _all(database, consistency.manifests_from):
        what = f"manifest {bytes(row.digest).hex()}"
        yield from _check_blob(blobs, row.blob_key, row.manifest_bytes, what, database, seen)
        if database.read(consistency.miscounted_manifest, row.id):
            yield Problem("rows", what, "the database says something else of its objects than they do")
        if read:
            yield from _check_manifest(blobs, row, what)
    yield from _check_objects(database)
    for digest in database.read(consistency.reached_condemned_packs):
        yield Problem("rows", f"pack {digest.hex()}", "it is condemned, although something reaches it")
    yield from _check_orphans(database, blobs)


@dataclass(frozen=True)
class Idle:
    """What of the packs nothing uses any more, and stays because something else in the same packs is used."""

    size_bytes: int
    packs: int


def idle(database: Database) -> Idle:
    """Bytes that would come back if all packs were written anew without what nothing uses."""
    size_bytes = count = 0
    for first in database.read(garbage.firsts, "packs", _ROWS):
        more_bytes, more = database.read(compaction.idle, first, first + _ROWS)
        size_bytes, count = size_bytes + more_bytes, count + more
    return Idle(size_bytes, count)


@dataclass
class _Seen:
    report: Callable[[int, int], None]
    count: int = 0
    size_bytes: int = 0

    def add(self, size_bytes: int) -> None:
        self.count, self.size_bytes = self.count + 1, self.size_bytes + size_bytes
        self.report(self.count, self.size_bytes)


def _all(database: Database, page: Callable[[Any, int, int], list[Any]]) -> Iterator[Any]:
    after = 0
    while found := database.read(page, after, _ROWS):
        yield from found
        after = found[-1].id


def _check_blob(
    blobs: BlobStore, key: str, size_bytes: int, what: str, database: Database, seen: _Seen
) -> Iterator[Problem]:
    seen.add(size_bytes)
    found = blobs.size(key)
    if found == size_bytes or database.read(garbage.orphans, [key]):
        return  # the rows went meanwhile
    if found is None:
        if key not in database.read(garbage.doomed, 1_000_000):
            yield Problem("missing", what, f"there is no blob {key}")
    else:
        yield Problem("size", what, f"blob {key} has {found} bytes and not {size_bytes}")


def _check_pack(database: Database, blobs: BlobStore, row: Any) -> Iterator[Problem]:
    what = f"pack {bytes(row.digest).hex()}"
    try:
        digest, records = engine.verify_pack(blobs.get(row.blob_key))
    except FileNotFoundError:
        return  # said already, or deleted meanwhile
    except engine.EngineError as error:
        yield Problem("damaged", what, error.message)
        return
    if digest != bytes(row.digest):
        yield Problem("damaged", what, f"its digest is {digest.hex()}")
    there = {record.digest: record[1:] for record in packs.records_of(records)}
    for chunk in database.read(consistency.chunks_in, row.id) + database.read(compaction.moved_from, row.id):
        if there.get(bytes(chunk.digest)) != (chunk.offset, chunk.length, chunk.raw_bytes):
            yield Problem("rows", what, f"chunk {bytes(chunk.digest).hex()} is not where the database says")


def _check_manifest(blobs: BlobStore, row: Any, what: str) -> Iterator[Problem]:
    try:
        data = blobs.get(row.blob_key)
    except FileNotFoundError:
        return
    if engine.digest(data) != bytes(row.digest):
        yield Problem("damaged", what, f"the bytes of blob {row.blob_key} are others")


def _check_objects(database: Database) -> Iterator[Problem]:
    for digest in database.read(consistency.bad_objects):
        yield Problem("bad", f"object {digest.hex()}", "the chunks that a client named are not its bytes")
    for first in database.read(garbage.firsts, "objects", _ROWS):
        for digest in database.read(consistency.uneven_objects, first, first + _ROWS):
            yield Problem("rows", f"object {digest.hex()}", "its chunks are not as long as it is")


def _check_orphans(database: Database, blobs: BlobStore) -> Iterator[Problem]:
    before_us = now_us() - ORPHAN_AGE_US
    for blob in blobs.list():
        if blob.changed_us < before_us and database.read(garbage.orphans, [blob.key]):
            yield Problem("orphan", f"blob {blob.key}", f"nothing names its {blob.size_bytes} bytes")

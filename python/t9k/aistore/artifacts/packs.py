"""Packs: taken in whole and checked, given out in ranges."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass

from t9k.aistore import engine
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.artifacts import leases
from t9k.aistore.artifacts.versions import Version, find_version
from t9k.aistore.blobs.store import BlobStore, BlobWriter
from t9k.aistore.clock import new_id, now_us
from t9k.aistore.db import Database, garbage, packs
from t9k.aistore.db import leases as lease_rows
from t9k.aistore.db.nodes import Connection
from t9k.aistore.errors import Refusal, integrity, not_found

CHECK_THREADS = min(4, os.cpu_count() or 1)
"""Of one pack. Measured (`benches/server_packs.py`): receiving takes one core, so few packs must use the others."""

_STORING = ThreadPoolExecutor(thread_name_prefix="pack-storing")
"""Writes the end of a pack, and syncs it, while it is checked."""

BLOCK_BYTES = 1 << 20
"""What is read at once of a pack that is given out."""

AHEAD_BYTES = 4 << 20
"""The disk reads so much ahead of what is sent: packs are written past the page cache."""


def blob_key(kind: str) -> str:
    """A key that was never used: two uploads of the same bytes never share a blob, nor does a late delete hit one."""
    name = new_id()
    return f"{kind}/{name[-2:]}/{name}"


class Intake:
    """A pack that is being taken in, by one thread after another.

    Its bytes are written while they arrive. Nobody is told of it before every chunk was decoded and hashed.
    """

    def __init__(
        self, database: Database, blobs: BlobStore, caller: Caller, lease: str | None, digest: bytes, lease_s: int
    ) -> None:
        """Has nothing yet, on the disk or in the database."""
        self._database = database
        self._blobs = blobs
        self._caller = caller
        self._lease = lease
        self._digest = digest
        self._lease_s = lease_s
        self._key = blob_key("packs")
        self._writer: BlobWriter | None = blobs.writer(self._key)
        self._written = 0
        self._writing = threading.Lock()

    def take(self, data: memoryview) -> None:
        """Begins to store the next bytes."""
        with self._writing:
            if self._writer is not None:
                self._writer.write(data)
                self._written += len(data)

    def finish(self, data: memoryview) -> tuple[bool, str]:
        """Takes in the whole pack, durable when this returns; whether it is new, and the lease that keeps it.

        What was not taken yet is written, and all of it synced, while every chunk is decoded and hashed; only rows
        make it visible, and those are written when both are done.

        Raises:
            Refusal: A chunk, the pack's form or its digest is wrong (`integrity`); the lease has ended (`conflict`).
        """
        records = packs.records_of(self._verify_and_store(data))

        def work(connection: Connection) -> tuple[bool, str] | None:
            held, domain = leases.hold(connection, self._caller, self._lease, self._lease_s)
            if self._blobs.size(self._key) is None:  # see `is_lost`
                return None
            put = packs.put(connection, domain, self._digest, self._key, len(data), now_us())
            if put is None:
                return None
            pack_id, kept_in = put
            packs.put_chunks(connection, domain, pack_id, records)
            lease_rows.put(connection, held, pack_id)
            return kept_in == self._key, held

        try:
            stored = self._database.write(work)
            while stored is None:  # again if a sweep took the blob for one of an upload that died
                self._key = blob_key("packs")
                self._blobs.put_if_absent(self._key, data)
                stored = self._database.write(work)
        except Refusal:
            discard(self._blobs, self._key)
            raise  # after any other error the rows may be there: the collector finds out
        if not stored[0]:
            discard(self._blobs, self._key)
        return stored

    def close(self) -> None:
        """Removes what was written of a pack that was not taken in."""
        with self._writing:
            if self._writer is not None:
                self._writer.abandon()
                self._writer = None

    def _verify_and_store(self, data: memoryview) -> bytes:
        """The rows of the pack's records; its bytes are durable, and nobody is told of them yet."""
        stored = _STORING.submit(self._store_rest, data[self._written :])
        try:
            rows = _verified(self._digest, data)
        except BaseException:
            wait([stored])
            discard(self._blobs, self._key)
            raise
        stored.result()
        return rows

    def _store_rest(self, data: memoryview) -> None:
        self.take(data)
        if self._writer is not None:
            self._writer.finish()


def discard(blobs: BlobStore, key: str | None) -> None:
    """Deletes a blob that no row names; where that fails it is left to the collector."""
    if key is not None:
        with suppress(OSError):
            blobs.delete(key)


def is_lost(connection: Connection, blobs: BlobStore, key: str) -> bool:
    """Whether a sweep took a blob that no row names for one of an upload that died: then no row may name it any more.

    In this order: what is not doomed when the transaction begins is either there, and stays, or was deleted before.
    """
    return garbage.is_doomed(connection, key) or blobs.size(key) is None


def _verified(digest: bytes, data: memoryview) -> bytes:
    try:
        found, rows = engine.verify_pack(data, CHECK_THREADS)
    except engine.EngineError as error:
        raise integrity(error.message, error.hint) from None
    if found != digest:
        raise integrity(f"the pack's digest is {found.hex()} and not {digest.hex()}")
    return rows


@dataclass(frozen=True)
class PackView:
    """A pack as readers of one version see it: records that the version does not have are zeros."""

    blob_key: str
    size_bytes: int
    pack_id: int
    manifest_id: int


def find_pack(connection: Connection, caller: Caller, node_id: str, number: int | None, digest: bytes) -> PackView:
    """A pack that may have chunks of a version that the caller may see.

    Raises:
        Refusal: There is no such version, or the domain of its manifest has no such pack.
    """
    version: Version = find_version(connection, caller, node_id, number)
    pack = packs.by_digest(connection, version.domain_id, digest)
    if pack is None:
        raise _no_pack(digest)
    return PackView(pack.blob_key, pack.size_bytes, pack.id, version.manifest_id)


def _no_pack(digest: bytes) -> Refusal:
    return not_found(f"the version has no chunk in pack {digest.hex()}")


def find_spans(connection: Connection, view: PackView, digest: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """What a version has of a range of a pack.

    Raises:
        Refusal: Nothing.
    """
    spans = packs.spans(connection, view.pack_id, view.manifest_id, start, end)
    if not spans:
        raise _no_pack(digest)
    return spans


def read_blocks(
    blobs: BlobStore, view: PackView, spans: list[tuple[int, int]], start: int, end: int
) -> Iterator[bytes]:
    """The bytes of a range in blocks; those outside of `spans` are zeros. Holds one block."""
    for first in range(start, end, BLOCK_BYTES):
        behind = min(first + BLOCK_BYTES, end)
        shown = [(max(a, first), min(b, behind)) for a, b in spans if a < behind and b > first]
        if shown == [(first, behind)]:
            # Who reads much goes on with the next range.
            more = min((view.size_bytes if end - start >= AHEAD_BYTES else end) - behind, AHEAD_BYTES)
            yield _exactly(blobs.get(view.blob_key, first, behind - first, more), behind - first, view)
            continue
        block = bytearray(behind - first)
        for a, b in shown:
            block[a - first : b - first] = _exactly(blobs.get(view.blob_key, a, b - a), b - a, view)
        yield bytes(block)


def _exactly(data: bytes, length: int, view: PackView) -> bytes:
    if len(data) != length:
        raise OSError(f"blob {view.blob_key} is shorter than the database says: see `aistore check`")
    return data

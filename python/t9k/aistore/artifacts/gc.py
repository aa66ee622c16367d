"""The garbage collector: condemns what nothing reaches, and deletes it after a grace period.

What is reached is what foreign keys say: node → version → manifest → object → chunk → pack. Beside that a pack is
protected by leases, and an object for as long as a lease after `plan` vouched for it or its last manifest went.

1. Versions that their artifact's retention lets go.
2. Manifests without a version are condemned, let go of their objects, and are deleted.
3. Objects without a manifest are deleted. Their chunks stay.
4. Packs without an object and without a lease are condemned: their chunks answer "missing" from then on.
5. Packs that were condemned longer than the grace period are deleted: first their rows, then their bytes.
6. Packs that are mostly unused are rewritten (`compaction`): the next collection condemns the old ones. This is the
   last step, since those before it make room.

Each step is a transaction that looks again, so it may run beside everything else and be killed anywhere.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass

from t9k.aistore.artifacts import compaction
from t9k.aistore.blobs.store import BlobStore
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, garbage, versions
from t9k.aistore.db.nodes import Connection

COMMITS_KEPT_US = 8 * 86_400 * 1_000_000
"""A commit's answer is known under its idempotency key for a week; a day more for slow clocks."""

ORPHAN_AGE_US = 86_400 * 1_000_000
"""A blob without a row belongs to an upload in flight, unless it is older."""

_ROWS = 20_000
_PACKS = 500


@dataclass
class Collected:
    """What a collection did."""

    versions: int = 0
    manifests: int = 0
    objects: int = 0
    condemned_packs: int = 0
    deleted_packs: int = 0
    deleted_bytes: int = 0
    rewritten_packs: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    damaged_chunks: int = 0

    def __add__(self, other: Collected) -> Collected:
        """What two collections did."""
        return Collected(*(mine + others for mine, others in zip(astuple(self), astuple(other), strict=True)))


def collect(
    database: Database,
    blobs: BlobStore,
    *,
    lease_s: int,
    grace_s: int,
    limits: compaction.Limits = compaction.UNLIMITED,
    is_stopping: Callable[[], bool] = lambda: False,
) -> Collected:
    """Collects what is garbage now.

    Args:
        database: Whose rows are collected.
        blobs: Where the bytes are.
        lease_s: How long an object stays after it was last vouched for.
        grace_s: How long a pack stays condemned.
        limits: Of the rewriting of packs.
        is_stopping: Asked between transactions.
    """
    done = Collected()
    steps: list[Iterator[None]] = [
        _retain(database, done),
        _manifests(database, done),
        _objects(database, done, now_us() - lease_s * 1_000_000),
        _condemn(database, done),
        _delete(database, done, grace_s),
        _bytes(database, blobs),
        _compact(database, blobs, done, limits, is_stopping),
    ]
    for _ in itertools.chain.from_iterable(steps):
        if is_stopping():
            break
    return done


@dataclass
class Prospect:
    """What a collection would do with packs now. `freed_bytes` is what rewritten packs give back in the end."""

    deleted_packs: int = 0
    deleted_bytes: int = 0
    condemned_packs: int = 0
    condemned_bytes: int = 0
    rewritten_packs: int = 0
    rewritten_bytes: int = 0
    written_bytes: int = 0
    freed_bytes: int = 0


def look_ahead(database: Database, *, lease_s: int, grace_s: int) -> Prospect:
    """Tells what `collect` would do with packs, to the byte, if nothing else changed. Only reads.

    What only versions and manifests that go now still have stays for as long as a lease, here as there.
    """
    now, asked_before_us = now_us(), now_us() - lease_s * 1_000_000
    found = Prospect(*database.read(garbage.deletable_packs, now - grace_s * 1_000_000))
    for first in database.read(garbage.firsts, "packs", _PACKS):
        count, size_bytes = database.read(garbage.unreached_packs, first, first + _PACKS, now, asked_before_us)
        found.condemned_packs += count
        found.condemned_bytes += size_bytes
    for group in compaction.groups(database, asked_before_us=asked_before_us):
        found.rewritten_packs += len(group.packs)
        found.written_bytes += group.written_bytes
        found.freed_bytes += group.freed_bytes
    found.rewritten_bytes = found.written_bytes + found.freed_bytes
    return found


def _retain(database: Database, done: Collected) -> Iterator[None]:
    database.write(garbage.forget_commits, now_us() - COMMITS_KEPT_US)
    for kept in database.read(versions.with_retention):
        done.versions += database.write(_retain_one, kept.node_id)
        yield


def _retain_one(connection: Connection, node_id: str) -> int:
    kept = versions.retention(connection, node_id)
    if kept is None or kept.keep_last is kept.ttl_s is None:
        return 0
    made_before = None if kept.ttl_s is None else now_us() - kept.ttl_s * 1_000_000
    numbers = versions.expired(connection, node_id, kept.keep_last, made_before)
    for number in numbers:
        versions.delete_version(connection, node_id, number)
    return len(numbers)


def _manifests(database: Database, done: Collected) -> Iterator[None]:
    for first in database.read(garbage.firsts, "manifests", _ROWS):
        database.write(garbage.condemn_manifests, first, first + _ROWS, now_us())
        yield
    for number in database.read(garbage.condemned_manifests):
        while database.write(garbage.let_go, number, _ROWS, now_us()):
            yield
        done.manifests += database.write(garbage.delete_manifest, number)
        yield


def _objects(database: Database, done: Collected, asked_before_us: int) -> Iterator[None]:
    for first in database.read(garbage.firsts, "objects", _ROWS):
        done.objects += database.write(garbage.delete_objects, first, first + _ROWS, asked_before_us)
        yield


def _condemn(database: Database, done: Collected) -> Iterator[None]:
    for first in database.read(garbage.firsts, "packs", _PACKS):
        done.condemned_packs += database.write(garbage.condemn_packs, first, first + _PACKS, now_us())
        yield


def _delete(database: Database, done: Collected, grace_s: int) -> Iterator[None]:
    condemned_before_us = now_us() - grace_s * 1_000_000
    for number in database.read(garbage.overdue_packs, condemned_before_us):
        size_bytes = database.write(garbage.delete_pack, number, condemned_before_us)
        done.deleted_packs += size_bytes > 0
        done.deleted_bytes += size_bytes
        yield


def _bytes(database: Database, blobs: BlobStore) -> Iterator[None]:
    while keys := database.read(garbage.doomed, 100):
        for key in keys:
            blobs.delete(key)
            database.write(garbage.forget_blob, key)
            yield


def _compact(
    database: Database, blobs: BlobStore, done: Collected, limits: compaction.Limits, is_stopping: Callable[[], bool]
) -> Iterator[None]:
    for rewritten in compaction.compact(database, blobs, limits, is_stopping):
        done.rewritten_packs += rewritten.packs
        done.read_bytes += rewritten.read_bytes
        done.written_bytes += rewritten.written_bytes
        done.damaged_chunks += rewritten.damaged_chunks
        yield


def sweep(database: Database, blobs: BlobStore, older_than_us: int = ORPHAN_AGE_US) -> int:
    """Deletes blobs that no row names and that are too old for an upload in flight; answers how many.

    Reads the whole listing. Temporaries of uploads that died go too. An upload that was in flight all the same, because
    the machine slept or a clock jumped, finds that when it is about to name its blob, and stores it again.
    """
    before_us = now_us() - older_than_us
    count = blobs.sweep(before_us)
    old = (blob.key for blob in blobs.list() if blob.changed_us < before_us)
    while keys := list(itertools.islice(old, _ROWS)):
        count += database.write(garbage.doom_orphans, keys)
    for _ in _bytes(database, blobs):
        pass
    return count

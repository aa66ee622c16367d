"""Packs that are mostly unused: what is still used of them is copied to new packs, and nothing reaches the old ones.

```text
sparse packs ─ groups of one domain ─ read what is used ─ verify ─ new pack, durable ─ one transaction: chunks lie there
```

Only the last step changes what anybody sees, and it looks again: a chunk moves if it still lies where it was copied
from. The old packs are left to the collector, which condemns them as it does all that nothing reaches. Until they are
deleted, they are read by those who were told before where the chunks are. So this may run beside everything else,
another one like it too, and be killed anywhere: what is left then is a blob that no row names.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from t9k.aistore import engine
from t9k.aistore.artifacts.packs import blob_key, discard, is_lost
from t9k.aistore.artifacts.verification import Run, runs
from t9k.aistore.blobs.store import BlobStore
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, garbage, packs
from t9k.aistore.db import compaction as rows
from t9k.aistore.db.nodes import Connection

log = logging.getLogger("aistore.artifacts")

SPARSE_PERCENT = 50
"""A pack of which less is used is rewritten. So each byte that is copied frees more than one, and packs take less than
twice what is used of them (`docs/adr/0020-compaction-of-packs.md`)."""

PACK_BYTES = 16 << 20
"""What clients send, and the length of new packs, unless one old pack has more that is used."""

MOST_RAW_BYTES = 256 << 20
MOST_CHUNKS = 1 << 16
"""Of one pack, as the engine takes it."""

MOST_SOURCES = 500
"""Packs that one new pack takes the place of: what one transaction changes is bounded."""

ROOM_PART = 4
"""What is there twice, until the old packs go, takes at most this part of the room that there would be without it."""

_RANGE = 500


@dataclass(frozen=True)
class Limits:
    """How much of a machine a round may take.

    Attributes:
        written_bytes: It ends before it has written more; None is no limit.
        rest: After each pack it rests so many times as long as that took.
    """

    written_bytes: int | None = None
    rest: float = 0.0


IN_BACKGROUND = Limits(written_bytes=1 << 30, rest=3.0)
"""A quarter of the time, so that uploads get most of disk and processor. What they slow down rests longer, too."""
UNLIMITED = Limits()


@dataclass
class Group:
    """Packs of one domain whose used chunks make one new pack."""

    domain_id: int
    packs: list[Any] = field(default_factory=list)
    written_bytes: int = rows.FRAME_BYTES
    raw_bytes: int = 0
    chunks: int = 0

    @property
    def freed_bytes(self) -> int:
        """What the old packs have more than the new one."""
        return sum(int(pack.size_bytes) for pack in self.packs) - self.written_bytes

    def takes(self, pack: Any) -> bool:
        """Whether another pack's used chunks fit."""
        return not self.packs or (
            self.written_bytes + pack.live_bytes - rows.FRAME_BYTES <= PACK_BYTES
            and self.raw_bytes + pack.raw_bytes <= MOST_RAW_BYTES
            and self.chunks + pack.count <= MOST_CHUNKS
            and len(self.packs) < MOST_SOURCES
        )

    def add(self, pack: Any) -> None:
        """Takes the used chunks of a pack, too."""
        self.packs.append(pack)
        self.written_bytes += pack.live_bytes - rows.FRAME_BYTES
        self.raw_bytes += pack.raw_bytes
        self.chunks += pack.count


@dataclass(frozen=True)
class Rewritten:
    """What became of a group: packs that were taken together, bytes read and written, chunks that are damaged."""

    packs: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    damaged_chunks: int = 0


def groups(database: Database, *, start: float = 0.0, asked_before_us: int | None = None) -> Iterator[Group]:
    """What there is to be rewritten now. Holds one group of each domain.

    Args:
        database: Whose packs are looked at.
        start: Where to begin, as a part of all packs.
        asked_before_us: Objects that nobody asked for since count for nothing if no manifest has them.
    """
    open_groups: dict[int, Group] = {}
    firsts = database.read(garbage.firsts, "packs", _RANGE)
    middle = int(len(firsts) * start)
    for first in [*firsts[middle:], *firsts[:middle]]:
        for pack in database.read(rows.sparse, first, first + _RANGE, SPARSE_PERCENT, asked_before_us):
            group = open_groups.setdefault(pack.domain_id, Group(pack.domain_id))
            if not group.takes(pack):
                yield group
                group = open_groups[pack.domain_id] = Group(pack.domain_id)
            group.add(pack)
    yield from open_groups.values()


def compact(
    database: Database, blobs: BlobStore, limits: Limits, is_stopping: Callable[[], bool] = lambda: False
) -> Iterator[Rewritten]:
    """Rewrites packs that are mostly unused, one new pack at a time; ends when its limits or a full disk say so.

    Holds a new pack, at most 64 MiB and mostly 16, and what is read of an old one at once, 8 MiB.
    """
    left = _budget(database, blobs, limits)
    if left <= rows.FRAME_BYTES:
        return
    start = 0.0 if limits.written_bytes is None else random.random()  # so that none waits behind what cannot be done
    for group in groups(database, start=start):
        if group.written_bytes > left:
            continue
        began = time.monotonic()
        try:
            done = _rewrite(database, blobs, group, is_stopping)
        except OSError as error:
            log.warning("packs are not rewritten: %s", error)
            return
        except engine.EngineError as error:  # what is used of them has changed so much that no pack takes it
            log.warning("%d packs are not rewritten now: %s", len(group.packs), error)
            continue
        left -= max(done.written_bytes, done.read_bytes)
        yield done
        if left <= rows.FRAME_BYTES:
            return
        _rest(limits.rest * (time.monotonic() - began), is_stopping)


def _budget(database: Database, blobs: BlobStore, limits: Limits) -> float:
    """Bytes that may be written now."""
    given = float("inf") if limits.written_bytes is None else limits.written_bytes
    room = blobs.room()
    if room is None:
        return given
    twice = database.read(rows.twice_bytes)
    return min(given, (room + twice) // ROOM_PART - twice)


def _rest(seconds: float, is_stopping: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while not is_stopping() and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.2))


def _rewrite(database: Database, blobs: BlobStore, group: Group, is_stopping: Callable[[], bool]) -> Rewritten:
    places = [database.read(rows.live_places, pack.id) for pack in group.packs]
    if rows.bytes_of(place for found in places for place in found) > group.written_bytes:
        return Rewritten()  # more of them is used than when they were listed: the next round looks anew
    copier = engine.PackCopier(group.written_bytes)
    read_bytes = damaged = copied = 0
    for pack, found in zip(group.packs, places, strict=True):
        faults: list[str] = []
        for run in runs(found):
            if is_stopping():
                return Rewritten()
            for part, offsets in _read(blobs, run, faults):
                left_out = copier.push_records(part, offsets)
                faults.extend(fault for _, fault in left_out)
                read_bytes += len(part)
                copied += len(offsets) - len(left_out)
        if faults and len(database.read(rows.live_places, pack.id)):  # else another one was as fast, and it is gone
            damaged += len(faults)
            log.error("%d used chunks of pack %s are damaged: %s", len(faults), bytes(pack.digest).hex(), faults[0])
    if not copied:
        return Rewritten(read_bytes=read_bytes, damaged_chunks=damaged)
    data, digest, records = copier.finish()
    is_moved = _put(database, blobs, group, data, digest, packs.records_of(records))
    return Rewritten(len(group.packs) * is_moved, read_bytes, len(data) * is_moved, damaged)


def _read(blobs: BlobStore, run: Run, faults: list[str]) -> Iterator[tuple[bytes, list[int]]]:
    """The bytes of a run, and the offsets of its records in them; each by itself if they cannot be read together."""
    try:
        yield blobs.get(run.blob_key, run.start, run.end - run.start), run.offsets
    except OSError as error:
        if len(run.offsets) == 1:
            faults.append(str(error))
            return
        for offset, behind in zip(run.offsets, [*run.offsets[1:], run.end - run.start], strict=True):
            yield from _read(blobs, Run(run.blob_key, run.start + offset, run.start + behind, [0]), faults)


def _put(
    database: Database, blobs: BlobStore, group: Group, data: memoryview, digest: bytes, records: list[packs.Record]
) -> bool:
    """Stores a new pack and lets chunks lie in it; not if somebody else has done so meanwhile."""
    twin = database.read(packs.by_digest, group.domain_id, digest)
    if twin is None:
        key = blob_key("packs")
        try:
            blobs.put_if_absent(key, data)
        except OSError:
            discard(blobs, key)
            raise
    elif _is_whole(blobs, twin):
        key = twin.blob_key
    else:
        return False

    def work(connection: Connection) -> bool:
        if is_lost(connection, blobs, key):  # first of all: what it sees is what the transaction sees
            return False
        put = packs.put(connection, group.domain_id, digest, key, len(data), now_us())
        if put is None or put[1] != key:
            return False
        sources = [source.id for source in group.packs if source.id != put[0]]
        rows.move(connection, group.domain_id, put[0], records, sources)
        return True

    is_moved = database.write(work)
    if not is_moved and twin is None:
        discard(blobs, key)
    return is_moved


def _is_whole(blobs: BlobStore, pack: Any) -> bool:
    """Whether a pack that is there already, with the very chunks of a new one, can take its place."""
    with suppress(OSError, engine.EngineError):
        return bool(engine.verify_pack(blobs.get(pack.blob_key))[0] == bytes(pack.digest))
    log.error("pack %s is damaged", bytes(pack.digest).hex())
    return False

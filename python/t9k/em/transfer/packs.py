"""Chunks of the store to the server: which are missing, then packs, several at once.

```text
objects ─ a window of chunks ─ missing? ─ batches of one pack each ─ turns ─ build, PUT (a thread each) ─ next window
```

What a turn of batches is about to send is claimed, and what other processes and hosts are sending comes last, if it is
still missing then: so uploads at once that share chunks divide them.

Memory is bounded by the window, and by one pack for each thread: a thread builds its next pack only after the server
has stored the one before.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field

from t9k.em import _engine
from t9k.em.client import artifacts
from t9k.em.client.session import Session
from t9k.em.errors import ConflictError, IntegrityError
from t9k.em.transfer.fetch import WHOLE_BYTES, split
from t9k.em.transfer.in_flight import in_flight
from t9k.em.transfer.progress import TransferProgress, Travelling

PACK_BYTES = 16 << 20
"""Of a pack's chunks. `benches/transfer.py`: 8, 16 and 32 MiB differ by less than the noise; memory grows with it."""

SENDERS = 4
"""Packs in flight, each built by its own thread and sent over its own connection."""

WINDOW_CHUNKS = 1 << 17
"""Chunks that are looked at together: about 40 MB here, and one `missing` request of 4 MB."""

TABLE_CHUNKS = 1 << 14
"""Of a chunk table that are read at once."""

TURN_BATCHES = SENDERS
"""Batches whose chunks are claimed together, when the first of them is to be sent."""

LONGEST_WAIT_S = 15.0
"""That an upload spends on waiting for what others are sending. Then it sends that too."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 1.0
"""Before asking again what others have sent; it doubles."""

SENDINGS = 3
"""Of a pack that arrives as something else."""

_CHUNK_OVERHEAD_BYTES = 128


@dataclass
class _Batch:
    """Chunks that go into one pack, by the object that they are read from."""

    wanted: list[tuple[bytes, list[tuple[int, bytes, int]]]] = field(default_factory=list)
    chunks: list[bytes] = field(default_factory=list)
    raw_bytes: int = 0

    def add(self, object_digest: bytes, offset: int, chunk: bytes, length: int) -> None:
        if not self.wanted or self.wanted[-1][0] != object_digest:
            self.wanted.append((object_digest, []))
        self.wanted[-1][1].append((offset, chunk, length))
        self.chunks.append(chunk)
        self.raw_bytes += length

    def takes(self, length: int) -> bool:
        overhead = _CHUNK_OVERHEAD_BYTES * (len(self.chunks) + 2)
        return self.raw_bytes + length + overhead <= PACK_BYTES or not self.chunks

    def only(self, indexes: Iterable[int]) -> _Batch:
        """The chunks at these indexes."""
        flat = [(digest, *piece) for digest, pieces in self.wanted for piece in pieces]
        kept = _Batch()
        for index in indexes:
            kept.add(*flat[index])
        return kept


_Chunk = tuple[bytes, int, bytes, int]
"""Object, offset in it, digest, length."""

_Claim = Callable[[list[bytes]], tuple[set[bytes], set[bytes]]]
"""Of chunks: those that are missing, and those of these that another upload is sending."""


class _Turn:
    """Batches that are claimed together, when the first of them is to be sent. Thread-safe.

    Attributes:
        busy: Chunks that others are sending.
    """

    def __init__(self, batches: Sequence[_Batch], claim: _Claim) -> None:
        self.busy: set[bytes] = set()
        self._batches = batches
        self._claim = claim
        self._free: set[bytes] | None = None
        self._lock = threading.Lock()

    def take(self, batch: _Batch) -> _Batch:
        """What is to be sent of a batch."""
        with self._lock:
            if self._free is None:
                absent, self.busy = self._claim([chunk for one in self._batches for chunk in one.chunks])
                self._free = absent - self.busy
            free = self._free
        return batch.only(index for index, chunk in enumerate(batch.chunks) if chunk in free)


class Sender:
    """Sends what chunks of objects the server lacks.

    Attributes:
        session: The server.
        store: Where the objects are.
        lease: Keeps the server's garbage collector from what is there or was sent; None before anything was asked.
    """

    def __init__(self, session: Session, store: str, local_lease: _engine.Lease, progress: TransferProgress) -> None:
        """Sends nothing yet.

        Args:
            session: The server.
            store: Where the objects are.
            local_lease: Keeps `em gc` away from them.
            progress: Is told what was sent, and what need not be.
        """
        self.session = session
        self.store = store
        self.lease: str | None = None
        self._local_lease = local_lease
        self._progress = progress
        self._in_flight = in_flight(session.url, session.user)
        self._waited_s = 0.0

    def send(self, objects: Sequence[tuple[bytes, int]]) -> None:
        """When this returns the server has every chunk of the objects.

        Raises:
            EngineError: An object is missing or damaged.
            EmError: As `Session.request`.
        """
        with ThreadPoolExecutor(SENDERS, thread_name_prefix="em-upload") as threads:
            for window in _windows(self._chunks(objects)):
                self._local_lease.renew()
                self._send_window(window, threads)

    def _chunks(self, objects: Sequence[tuple[bytes, int]]) -> Iterator[_Chunk]:
        for digest, size in objects:
            if size <= WHOLE_BYTES:
                if size:
                    yield digest, 0, digest, size
                continue
            table, offset = _engine.ChunkTable(self.store, digest), 0
            for first in range(0, len(table), TABLE_CHUNKS):
                digests, lengths = table.chunks(first, TABLE_CHUNKS)
                for chunk, length in zip(split(digests), memoryview(lengths).cast("I"), strict=True):
                    yield digest, offset, chunk, length
                    offset += length

    def _send_window(self, window: dict[bytes, _Chunk], threads: ThreadPoolExecutor) -> None:
        pause_s = FIRST_PAUSE_S
        while window:
            is_one_turn = sum(length for *_, length in window.values()) <= TURN_BATCHES * PACK_BYTES
            absent, busy = self._missing(list(window), claim=is_one_turn)
            mine = self._in_flight.claim(absent - busy)
            try:
                chunks = [chunk for digest, chunk in window.items() if digest in mine]
                later = self._send_chunks(chunks, threads, is_claimed=is_one_turn)
            finally:
                self._in_flight.release(mine)
            # What other uploads were sending: it has arrived, or they have failed or are still at it.
            left = absent - mine | later
            self._in_flight.wait(left)
            if left and later == mine:
                time.sleep(pause_s)
                self._waited_s += pause_s
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            window = {digest: chunk for digest, chunk in window.items() if digest in left}

    def _send_chunks(self, chunks: list[_Chunk], threads: ThreadPoolExecutor, *, is_claimed: bool) -> set[bytes]:
        """Answers those that another process or host is sending."""
        self._progress.plan(sum(length for *_, length in chunks))
        batches = _batches(chunks)
        # Several clients that send the same chunks at once then rarely ask for the same turn.
        random.shuffle(batches)
        claim: _Claim = (lambda asked: (set(asked), set())) if is_claimed else self._claim
        turns = [_Turn(batches[start : start + TURN_BATCHES], claim) for start in range(0, len(batches), TURN_BATCHES)]
        futures = [
            threads.submit(self._send_batch, turns[number // TURN_BATCHES], batch)
            for number, batch in enumerate(batches)
        ]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            self._progress.stop()
            for future in futures:
                future.cancel()
            wait(futures)  # none may send what is released
            raise
        return set().union(*(turn.busy for turn in turns))

    def _send_batch(self, turn: _Turn, whole: _Batch) -> None:
        batch = turn.take(whole)
        self._progress.plan(batch.raw_bytes - whole.raw_bytes)
        plan = _engine.PackPlan(self.store, batch.wanted, PACK_BYTES)
        for index in range(len(plan)):
            pack, _, raw_bytes = plan.build(index)
            self._put(pack, raw_bytes)
            self._local_lease.renew()
            self._progress.moved(raw_bytes, len(pack))
            del pack  # its memory is the next one's

    def _claim(self, chunks: list[bytes]) -> tuple[set[bytes], set[bytes]]:
        return self._missing(chunks, claim=True)

    def _missing(self, chunks: list[bytes], *, claim: bool) -> tuple[set[bytes], set[bytes]]:
        """As `_Claim`; of a claim that was waited for too long nothing is busy."""
        claim = claim and self._waited_s < LONGEST_WAIT_S
        try:
            found = artifacts.missing(self.session, chunks, self.lease, claim=claim)
        except ConflictError:  # an hour's pause ended the lease: the commit tells what went with it
            found = artifacts.missing(self.session, chunks, None, claim=claim)
        self.lease = found.lease
        return {chunks[index] for index in found.absent}, {chunks[index] for index in found.busy}

    def _put(self, pack: memoryview, raw_bytes: int) -> None:
        digest = _engine.pack_digest(pack)
        with Travelling(self._progress, raw_bytes, len(pack)) as passed:
            for _ in range(SENDINGS - 1):
                with suppress(IntegrityError):  # something on the way changed it
                    self._put_once(digest, pack, passed)
                    return
            self._put_once(digest, pack, passed)

    def _put_once(self, digest: bytes, pack: memoryview, passed: Callable[[int], None]) -> None:
        try:
            artifacts.put_pack(self.session, digest, pack, self.lease, passed)
        except ConflictError:  # an hour's pause ended the lease: the commit tells what went with it
            self.lease = artifacts.put_pack(self.session, digest, pack, None, passed)


def _windows(chunks: Iterator[_Chunk]) -> Iterator[dict[bytes, _Chunk]]:
    """Different chunks by digest, as many at once as memory allows."""
    window: dict[bytes, _Chunk] = {}
    for chunk in chunks:
        window.setdefault(chunk[2], chunk)
        if len(window) >= WINDOW_CHUNKS:
            yield window
            window = {}
    if window:
        yield window


def _batches(chunks: Iterable[_Chunk]) -> list[_Batch]:
    batches: list[_Batch] = []
    for object_digest, offset, digest, length in chunks:
        if not batches or not batches[-1].takes(length):
            batches.append(_Batch())
        batches[-1].add(object_digest, offset, digest, length)
    return batches

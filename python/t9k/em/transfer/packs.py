"""Chunks of the store to the server: which are missing, then packs, several at once.

```text
objects ─ a window of chunks ─ missing? ─ batches of one pack each ─ build, PUT (a thread each) ─ next window
```

Memory is bounded by the window, and by one pack for each thread: a thread builds its next pack only after the server
has stored the one before.
"""

from __future__ import annotations

import random
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

STALE_S = 1.0
"""After so long a batch asks again what is missing: others may have sent it meanwhile."""

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
        while window:
            digests = list(window)
            absent = {digests[index] for index in self._missing(digests)}
            asked = time.monotonic()
            mine = self._in_flight.claim(absent)
            try:
                self._send_chunks([window[digest] for digest in digests if digest in mine], threads, asked)
            finally:
                self._in_flight.release(mine)
            # What another upload of this process was sending: it has arrived, or that upload has failed.
            others = absent - mine
            self._in_flight.wait(others)
            window = {digest: window[digest] for digest in digests if digest in others}

    def _send_chunks(self, chunks: list[_Chunk], threads: ThreadPoolExecutor, asked: float) -> None:
        self._progress.plan(sum(length for *_, length in chunks))
        batches = _batches(chunks)
        # Several clients that send the same chunks at once then rarely send the same one.
        random.shuffle(batches)
        futures = [threads.submit(self._send_batch, batch, asked) for batch in batches]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            self._progress.stop()
            for future in futures:
                future.cancel()
            wait(futures)  # none may send what is released
            raise

    def _send_batch(self, batch: _Batch, asked: float) -> None:
        if time.monotonic() - asked > STALE_S:
            left = batch.only(self._missing(batch.chunks))
            self._progress.plan(left.raw_bytes - batch.raw_bytes)
            batch = left
        plan = _engine.PackPlan(self.store, batch.wanted, PACK_BYTES)
        for index in range(len(plan)):
            pack, _, raw_bytes = plan.build(index)
            self._put(pack, raw_bytes)
            self._local_lease.renew()
            self._progress.moved(raw_bytes, len(pack))

    def _missing(self, chunks: Sequence[bytes]) -> list[int]:
        try:
            self.lease, absent = artifacts.missing(self.session, chunks, self.lease)
        except ConflictError:  # an hour's pause ended the lease: the commit tells what went with it
            self.lease, absent = artifacts.missing(self.session, chunks, None)
        return absent

    def _put(self, pack: bytes, raw_bytes: int) -> None:
        digest = _engine.pack_digest(pack)
        with Travelling(self._progress, raw_bytes, len(pack)) as passed:
            for _ in range(SENDINGS - 1):
                with suppress(IntegrityError):  # something on the way changed it
                    self._put_once(digest, pack, passed)
                    return
            self._put_once(digest, pack, passed)

    def _put_once(self, digest: bytes, pack: bytes, passed: Callable[[int], None]) -> None:
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

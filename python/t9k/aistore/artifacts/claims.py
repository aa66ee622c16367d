"""Which uploads are sending which chunks now, so that others send other chunks first.

Only a hint, in the memory of one process: without it, or after a restart, a chunk is sent twice and kept once. So
nothing here is stored, no upload is ever refused by it, and clients wait for each other only for a bounded time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

SILENT_S = 5.0
"""So long a claim lasts after its upload was last heard of. While a pack of it is coming it lasts."""

TURNS = 2
"""Latest claims of an upload that count: the one before may still have packs on their way."""

MAX_CLAIMED = 1 << 20
"""Chunks claimed at once by all uploads, about 200 MB; more are not noted."""

_Chunk = tuple[str, bytes]
"""Domain and digest."""


@dataclass
class _Upload:
    heard_at: float
    packs: int = 0
    turns: deque[list[_Chunk]] = field(default_factory=deque)


class Claims:
    """Who sends what, by leases. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody sends anything."""
        self._clock = clock
        self._lock = threading.Lock()
        self._uploads: dict[str, _Upload] = {}
        self._holders: dict[_Chunk, str] = {}

    def claim(self, domain: str, lease: str, chunks: Sequence[bytes]) -> set[int]:
        """Claims those chunks that no other upload has claimed; answers the indexes of the others."""
        with self._lock:
            self._forget_silent()
            upload = self._heard(lease)
            busy: set[int] = set()
            turn: list[_Chunk] = []
            for index, digest in enumerate(chunks):
                chunk = domain, digest
                if self._holders.get(chunk, lease) != lease:
                    busy.add(index)
                elif len(self._holders) < MAX_CLAIMED:
                    self._holders[chunk] = lease
                    turn.append(chunk)
            upload.turns.append(turn)
            if len(upload.turns) > TURNS:
                kept = {chunk for later in list(upload.turns)[1:] for chunk in later}
                self._drop(lease, [chunk for chunk in upload.turns.popleft() if chunk not in kept])
            return busy

    @contextmanager
    def sending(self, lease: str | None) -> Iterator[None]:
        """While a pack of an upload comes, its claims last; if the pack breaks off, they all end."""
        if lease is None:
            yield
            return
        with self._lock:
            self._forget_silent()
            upload = self._heard(lease)
            upload.packs += 1
        try:
            yield
        except BaseException:
            with self._lock:
                self._forget(lease)
            raise
        with self._lock:  # this one is forgotten if another pack of the lease has broken off
            upload.packs -= 1
            upload.heard_at = self._clock()

    def _heard(self, lease: str) -> _Upload:
        upload = self._uploads.setdefault(lease, _Upload(0.0))
        upload.heard_at = self._clock()
        return upload

    def _forget_silent(self) -> None:
        before = self._clock() - SILENT_S
        for lease in [one for one, upload in self._uploads.items() if not upload.packs and upload.heard_at < before]:
            self._forget(lease)

    def _forget(self, lease: str) -> None:
        upload = self._uploads.pop(lease, None)
        for turn in upload.turns if upload is not None else ():
            self._drop(lease, turn)

    def _drop(self, lease: str, chunks: Sequence[_Chunk]) -> None:
        for chunk in chunks:
            if self._holders.get(chunk) == lease:
                del self._holders[chunk]

"""Chunks that uploads of this process are sending now, so that two of them which share chunks send each once.

Uploads of other processes and hosts are met by asking the server again what is missing, which is less exact.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable


class InFlight:
    """The chunks on their way to one server, for one user. Thread-safe."""

    def __init__(self) -> None:
        """Nothing is on its way."""
        self._condition = threading.Condition()
        self._chunks: set[bytes] = set()

    def claim(self, chunks: Iterable[bytes]) -> set[bytes]:
        """Those of the chunks that nobody is sending: the caller sends them, and must `release` them."""
        with self._condition:
            mine = set(chunks) - self._chunks
            self._chunks |= mine
            return mine

    def release(self, chunks: set[bytes]) -> None:
        """Says that the caller sends the chunks no longer, whether they have arrived or not."""
        with self._condition:
            self._chunks -= chunks
            self._condition.notify_all()

    def wait(self, chunks: set[bytes]) -> None:
        """Returns when nobody is sending any of the chunks. The caller must have released its own."""
        with self._condition:
            self._condition.wait_for(lambda: self._chunks.isdisjoint(chunks))


_places: dict[tuple[str, str], InFlight] = {}
_lock = threading.Lock()


def in_flight(server: str, user: str) -> InFlight:
    """What is on its way to a server for a user."""
    with _lock:
        return _places.setdefault((server, user), InFlight())


def _forget() -> None:
    """A forked child has none of the threads that send."""
    global _lock
    _lock = threading.Lock()
    _places.clear()


os.register_at_fork(after_in_child=_forget)

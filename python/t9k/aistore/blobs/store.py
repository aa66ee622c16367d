"""What the server asks of a place for bytes. Every implementation passes the suite in `tests/server/blobs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class BlobInfo(NamedTuple):
    """A blob in a listing."""

    key: str
    size_bytes: int
    changed_us: int


class BlobWriter(Protocol):
    """A blob that comes in parts, from one thread at a time. Nobody sees anything of it before `finish`."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes, which may be changed when this returns."""

    def finish(self) -> bool:
        """Makes the blob durable and seen; answers whether it was new. The first of two wins."""

    def abandon(self) -> None:
        """Removes what was written; of no effect after `finish`."""


class BlobStore(Protocol):
    """Immutable blobs by key. A key is small letters, digits and single slashes; nothing else is assumed of it.

    Nobody ever sees a part of a blob. Safe between threads, processes and hosts. Errors of the system are `OSError`
    (``ENOSPC`` for a full store).
    """

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        """Stores a blob, durable when this returns; answers whether it was new. The first of two wins."""

    def writer(self, key: str) -> BlobWriter:
        """What takes a blob whose bytes are not all there yet; it has nothing before its first bytes."""

    def get(self, key: str, offset: int = 0, length: int | None = None, more: int = 0) -> bytes:
        """Bytes of a blob from `offset` on, `length` or to its end; fewer where it ends.

        The `more` bytes behind them will be asked for soon, which may be begun already.

        Raises:
            FileNotFoundError: There is no such blob.
        """

    def size(self, key: str) -> int | None:
        """Bytes of a blob; None if there is none."""

    def room(self) -> int | None:
        """Bytes that still fit; None if nobody knows or needs to care."""

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All blobs whose keys begin so, in no order."""

    def sweep(self, before_us: int) -> int:
        """Removes what puts that died before this time have left, of which no listing tells; answers how many."""

    def delete(self, key: str) -> None:
        """Removes a blob; one that is not there is no error."""

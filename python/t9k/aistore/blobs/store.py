"""What the server asks of a place for bytes. Every implementation passes the suite in `tests/server/blobs`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol


class BlobInfo(NamedTuple):
    """A blob in a listing."""

    key: str
    size_bytes: int
    changed_us: int


class BlobStore(Protocol):
    """Immutable blobs by key. A key is small letters, digits and single slashes; nothing else is assumed of it.

    Nobody ever sees a part of a blob. Safe between threads, processes and hosts. Errors of the system are `OSError`
    (``ENOSPC`` for a full store).
    """

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        """Stores a blob, durable when this returns; answers whether it was new. The first of two wins."""

    def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """Bytes of a blob from `offset` on, `length` or to its end; fewer where it ends.

        Raises:
            FileNotFoundError: There is no such blob.
        """

    def size(self, key: str) -> int | None:
        """Bytes of a blob; None if there is none."""

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """All blobs whose keys begin so, in no order."""

    def sweep(self, before_us: int) -> int:
        """Removes what puts that died before this time have left, of which no listing tells; answers how many."""

    def delete(self, key: str) -> None:
        """Removes a blob; one that is not there is no error."""

"""Blobs in a directory: temporary file, fsync, link, fsync of the directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from t9k.aistore.blobs.store import BlobInfo

_KEY = re.compile(r"[a-z0-9]+(?:/[a-z0-9]+)*")
_TEMPORARY = ".tmp-"

_LONG_BYTES = 1 << 20
"""What is written at once in as many bytes goes past the page cache, which has better use for its memory."""

_DIRECT_BYTES = 4096
"""Of which disks and file systems want multiples then."""


class LocalBlobStore:
    """A `BlobStore` on a local or network file system. A crash leaves temporaries."""

    def __init__(self, root: Path) -> None:
        """Makes the directory if there is none."""
        self._root = root
        make_directory(root)

    def put_if_absent(self, key: str, data: bytes | bytearray | memoryview) -> bool:
        """See `BlobStore`."""
        path = self._path(key)
        if path.exists():
            sync_directory(path.parent)  # whoever linked it may not have come that far yet
            return False
        writer = self.writer(key)
        try:
            writer.write(data)
            return writer.finish()
        finally:
            writer.abandon()

    def writer(self, key: str) -> LocalBlobWriter:
        """See `BlobStore`."""
        return LocalBlobWriter(self._path(key))

    def get(self, key: str, offset: int = 0, length: int | None = None, more: int = 0) -> bytes:
        """See `BlobStore`."""
        with open(self._path(key), "rb", buffering=0) as file:
            if more and length is not None and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), offset, length + more, os.POSIX_FADV_WILLNEED)
            left = os.fstat(file.fileno()).st_size - offset
            if length is not None:
                left = min(left, length)
            parts = []
            while left > 0 and (part := os.pread(file.fileno(), left, offset)):
                parts.append(part)
                offset, left = offset + len(part), left - len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def size(self, key: str) -> int | None:
        """See `BlobStore`."""
        try:
            return self._path(key).stat().st_size
        except FileNotFoundError:
            return None

    def room(self) -> int | None:
        """See `BlobStore`."""
        status = os.statvfs(self._root)
        return status.f_bavail * status.f_frsize

    def list(self, prefix: str = "") -> Iterator[BlobInfo]:
        """See `BlobStore`."""
        for directory, _, names in os.walk(self._root):
            for name in names:
                path = Path(directory, name)
                key = path.relative_to(self._root).as_posix()
                if name.startswith(_TEMPORARY) or not key.startswith(prefix):
                    continue
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    yield BlobInfo(key, status.st_size, status.st_mtime_ns // 1000)

    def sweep(self, before_us: int) -> int:
        """See `BlobStore`."""
        count = 0
        for directory, _, names in os.walk(self._root):
            for name in names:
                path = Path(directory, name)
                with contextlib.suppress(FileNotFoundError):
                    if name.startswith(_TEMPORARY) and path.stat().st_mtime_ns // 1000 < before_us:
                        path.unlink()
                        count += 1
        return count

    def delete(self, key: str) -> None:
        """See `BlobStore`."""
        with contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"{key!r} is not the key of a blob")
        return self._root / key


class LocalBlobWriter:
    """A `BlobWriter` into a temporary file beside the blob's name. Two syncs: of the file, and of the directory.

    Long parts in memory that begins with a page are on the disk when `write` returns, without a copy, so that the first
    sync finds little to do.
    """

    def __init__(self, path: Path) -> None:
        """Makes the file when there is something to write."""
        self._path = path
        self._temporary = path.parent / f"{_TEMPORARY}{secrets.token_hex(16)}"
        self._descriptor: int | None = None
        self._size_bytes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See `BlobWriter`."""
        descriptor = self._open()
        rest = memoryview(data)
        if len(rest) >= _LONG_BYTES and self._size_bytes % _DIRECT_BYTES == 0:
            rest = _write_directly(descriptor, rest)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        self._size_bytes += len(data)

    def finish(self) -> bool:
        """See `BlobWriter`."""
        os.fsync(self._open())
        try:
            os.link(self._temporary, self._path)
            is_new = True
        except FileExistsError:
            is_new = False
        self.abandon()
        sync_directory(self._path.parent)
        return is_new

    def abandon(self) -> None:
        """See `BlobWriter`."""
        if self._descriptor is None:
            return
        os.close(self._descriptor)
        self._descriptor = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)

    def _open(self) -> int:
        if self._descriptor is None:
            make_directory(self._path.parent)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._descriptor = os.open(self._temporary, flags, 0o444)
        return self._descriptor


def _write_directly(descriptor: int, data: memoryview) -> memoryview:
    """Writes whole blocks past the page cache; answers the rest, which is all where memory or file system forbid it."""
    if not hasattr(os, "O_DIRECT"):
        return data
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while len(data) >= _DIRECT_BYTES:
            data = data[os.write(descriptor, data[: len(data) & -_DIRECT_BYTES]) :]
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return data


def make_directory(directory: Path) -> None:
    """Makes a directory and those above it, for its owner only; each has its name on the disk when this returns."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True, mode=0o700)
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Puts the names in a directory on the disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files of an artifact that stays on the server: some downloaded, or parts of them read."""

from __future__ import annotations

import io
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Any

from t9k.em import _engine
from t9k.em.artifact import store_dir
from t9k.em.client import artifacts
from t9k.em.client.placement import absolute_path
from t9k.em.errors import ConflictError, IntegrityError, NotFoundError, translated
from t9k.em.transfer.download import metadata_of
from t9k.em.transfer.fetch import WHOLE_BYTES, fetch, ranges, split
from t9k.em.transfer.progress import TransferProgress
from t9k.em.transfer.select import select

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from t9k.em.client.session import Session

CACHE_BYTES = 64 << 20
"""Chunks of one open file that are kept in memory."""

AHEAD_BYTES = 4 << 20
"""Fetched at once where reading goes on."""

LOCATED_CHUNKS = 4096
"""Chunks whose places are asked for at once: 128 kB."""


class RemoteFiles:
    """The files of a version on the server.

    Attributes:
        entries: By path, as `Artifact.to_dict` has them.
        metadata: As an Artifact takes it.
    """

    def __init__(self, session: Session, version: artifacts.Version, manifest: bytes) -> None:
        """Reads the manifest."""
        self._session = session
        self._version = version
        self.metadata = metadata_of(session, version)
        fields = ("type", "size", "digest", "executable", "uri")
        with translated():
            entries = _engine.parse_manifest(manifest)
        self.entries: dict[str, dict[str, Any]] = {
            path: {name: value for name, value in zip(fields, rest, strict=True) if value is not None}
            for path, *rest in entries
        }

    @classmethod
    def at(cls, session: Session, path: str) -> RemoteFiles:
        """Those of the version that a path names."""
        version = artifacts.resolve(session, absolute_path(path, session.user))
        return cls(session, version, artifacts.manifest(session, version))

    def download(self, into: str, paths: Sequence[str] | None, glob: str | None) -> list[str]:
        """See `Artifact.download`."""
        files = {path: entry for path, entry in self.entries.items() if entry["type"] == "file"}
        chosen = select(files, paths, glob, f"file of {self._version.path}")
        objects = {bytes.fromhex(files[path]["digest"]): files[path]["size"] for path in chosen}
        store = store_dir()
        wanted = [path for path in chosen if not _is_there(os.path.join(into, path), files[path])]
        # The lease spans the links: `em gc` sees no manifest that names these objects.
        with translated(), TransferProgress("load") as progress, _engine.Lease(store):
            progress.begin(len(objects), sum(objects.values()))
            fetch(self._session, self._version, store, list(objects.items()), progress)
            os.makedirs(into, exist_ok=True)
            for path in wanted:
                digest, is_executable = bytes.fromhex(files[path]["digest"]), files[path]["executable"]
                _engine.link_entry(store, digest, into, path, is_executable)
        return [os.path.join(into, path) for path in chosen]

    def open(self, path: str) -> IO[bytes]:
        """See `Artifact.open`."""
        entry = self.entries.get(path)
        if entry is None or entry["type"] != "file":
            raise NotFoundError(f"there is no file {path!r} in {self._version.path}")
        digest, size = bytes.fromhex(entry["digest"]), entry["size"]
        store = store_dir()
        with translated():
            is_here = os.path.isdir(store) and _engine.usable(store, digest, size)
        if is_here:
            raw: io.RawIOBase = StoredFile(store, digest, size)
        else:
            raw = RemoteFile(self._session, self._version, digest, size)
        return io.BufferedReader(raw, buffer_size=256 << 10)


def _is_there(path: str, entry: dict[str, Any]) -> bool:
    """Whether a path holds the entry's bytes already. Another file there is a conflict, found before any is written."""
    if not os.path.lexists(path):
        return False
    with translated():
        if os.path.isfile(path) and _engine.hash_file(path) == entry["digest"]:
            return True
    raise ConflictError(f"{path} is there and something else", hint="remove it, or choose another directory")


class _Seekable(io.RawIOBase):
    """A file of a known size that can seek, from `read_at`."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = offset + (0, self._at, self._size)[whence]
        if at < 0:
            raise ValueError(f"cannot seek to {at}")
        self._at = at
        return at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._at))
        if wanted:
            data = self.read_at(self._at, wanted)
            wanted = len(data)
            view[:wanted] = data
            self._at += wanted
        return wanted

    def read_at(self, offset: int, length: int) -> bytes:
        """At least one of the bytes, which are there."""
        raise NotImplementedError


class StoredFile(_Seekable):
    """An object of the local store."""

    def __init__(self, store: str, digest: bytes, size: int) -> None:
        """Opens nothing yet."""
        super().__init__(size)
        self._store = store
        self._digest = digest

    def read_at(self, offset: int, length: int) -> bytes:
        """As `_Seekable`."""
        with translated():
            return _engine.read_object_range(self._store, self._digest, offset, length)


class RemoteFile(_Seekable):
    """An object of the server, read by chunks that are verified. Thread-safe as far as `read_at` goes.

    Its chunk table can be trusted only as far as each chunk's digest: that it is the table of this object is what the
    server vouches for, which has hashed the whole object from it.
    """

    def __init__(self, session: Session, version: artifacts.Version, digest: bytes, size: int) -> None:
        """Asks for the chunk table."""
        super().__init__(size)
        self._session = session
        self._version = version
        self._digest = digest
        self._lock = threading.Lock()
        self._cache: OrderedDict[bytes, bytes] = OrderedDict()
        self._cached_bytes = 0
        self._places: dict[bytes, artifacts.Place] = {}
        table = None
        if size > WHOLE_BYTES:
            ((_, _, table),) = artifacts.chunk_tables(session, version, [(digest, size)])
        if table is None:
            self._chunks, self._lengths = [digest], [size]
        else:
            with translated():
                total, digests, lengths = _engine.parse_chunk_table(table)
            if total != size:
                raise IntegrityError(f"the chunk table of object {digest.hex()} is one of {total} bytes, not {size}")
            self._chunks, self._lengths = split(digests), list(memoryview(lengths).cast("I"))
        self._ends = list(accumulate(self._lengths))

    def read_at(self, offset: int, length: int) -> bytes:
        """As `_Seekable`."""
        number = bisect_right(self._ends, offset)
        digest = self._chunks[number]
        with self._lock:
            if digest not in self._cache:
                self._fetch(number)
            self._cache.move_to_end(digest)
            chunk = self._cache[digest]
        start = offset - (self._ends[number] - self._lengths[number])
        return chunk[start : start + length]

    def _fetch(self, first: int) -> None:
        """Gets a chunk, and those behind it that reading on would ask for next."""
        # The first read of a place gets its chunk only: it is perhaps the footer of a file.
        is_reading_on = first > 0 and self._chunks[first - 1] in self._cache
        wanted: dict[bytes, int] = {}
        for number in range(first, len(self._chunks)):
            if wanted and (not is_reading_on or sum(wanted.values()) >= AHEAD_BYTES):
                break
            if self._chunks[number] not in self._cache:
                wanted[self._chunks[number]] = self._lengths[number]
        try:
            self._receive(first, wanted)
        except IntegrityError:  # something on the way changed it: once more, from the start
            self._places.clear()
            self._receive(first, wanted)

    def _receive(self, first: int, wanted: dict[bytes, int]) -> None:
        if not wanted.keys() <= self._places.keys():
            asked = list(dict.fromkeys(self._chunks[first : first + LOCATED_CHUNKS]))
            self._places = dict(zip(asked, artifacts.locate(self._session, self._version, asked), strict=True))
        places = {self._places[digest]: digest for digest in wanted}
        for span in ranges(list(places), list(wanted.values())):
            data = artifacts.pack_range(self._session, self._version, span.pack, span.start, span.end)
            for place, digest in places.items():
                if place.pack == span.pack and span.start <= place.offset and place.end <= span.end:
                    with translated():
                        found, chunk = _engine.decode_record(data, place.offset - span.start)
                    if found != digest or len(chunk) != wanted[digest]:
                        raise IntegrityError(f"the server sends another chunk than {digest.hex()}")
                    self._keep(digest, chunk)

    def _keep(self, digest: bytes, chunk: bytes) -> None:
        self._cache[digest] = chunk
        self._cached_bytes += len(chunk)
        while self._cached_bytes > CACHE_BYTES:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)

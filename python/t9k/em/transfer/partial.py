"""Files of an artifact that stays on the server: some downloaded, or parts of them read."""

from __future__ import annotations

import io
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import IO, TYPE_CHECKING, Any

from t9k.em import _engine
from t9k.em.artifact import etags_of, store_dir
from t9k.em.client import artifacts
from t9k.em.client.placement import absolute_path
from t9k.em.errors import ConflictError, IntegrityError, NotFoundError, translated
from t9k.em.linked import tell
from t9k.em.progress import Progress
from t9k.em.transfer.download import metadata_of
from t9k.em.transfer.fetch import WHOLE_BYTES, fetch, ranges, split
from t9k.em.transfer.progress import TransferProgress
from t9k.em.transfer.select import select

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from t9k.em.client.session import Session

CACHE_BYTES = 64 << 20
"""Chunks of one open file that are kept in memory."""

STEP_BYTES = 8 << 20
"""A longer read is answered in steps of this."""

LEAST_AHEAD_BYTES, MOST_AHEAD_BYTES = 256 << 10, 4 << 20
"""Fetched beyond what was asked for where reading goes on and on: it doubles with each time."""

BUFFER_BYTES = 32 << 10
"""Of an open file. More would fetch bytes behind each read that nobody asked for; the chunk that was read is kept."""

LOCATED_CHUNKS = 1024
"""Chunks whose places are asked for at once: 32 kB there, 44 kB back."""


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
            entries, etags = _engine.parse_manifest(manifest), etags_of(manifest)
        self.entries: dict[str, dict[str, Any]] = {
            path: {name: value for name, value in zip(fields, rest, strict=True) if value is not None}
            for path, *rest in entries
        }
        for path, etag in etags.items():
            self.entries[path]["etag"] = etag

    @classmethod
    def at(cls, session: Session, path: str) -> RemoteFiles:
        """Those of the version that a path names."""
        return cls.of(session, artifacts.resolve(session, absolute_path(path, session.user)))

    @classmethod
    def of(cls, session: Session, version: artifacts.Version) -> RemoteFiles:
        """Those of a version."""
        return cls(session, version, artifacts.manifest(session, version))

    def is_of(self, version: artifacts.Version) -> bool:
        """Whether these are the files of a version."""
        return (self._version.node_id, self._version.number) == (version.node_id, version.number)

    def download(self, into: str, paths: Sequence[str] | None, glob: str | None) -> list[str]:
        """See `Artifact.download`."""
        files = {path: entry for path, entry in self.entries.items() if entry["type"] == "file"}
        chosen = select(files, paths, glob, f"file of {self._version.path}")
        objects = {bytes.fromhex(files[path]["digest"]): files[path]["size"] for path in chosen}
        store = store_dir()
        wanted = [path for path in chosen if not _is_there(os.path.join(into, path), files[path])]
        # The lease spans the links: `em gc` sees no manifest that names these objects.
        with translated(), _engine.Lease(store):
            with TransferProgress("load") as progress:
                progress.begin(len(objects), sum(objects.values()))
                fetch(self._session, self._version, store, list(objects.items()), progress)
            os.makedirs(into, exist_ok=True)
            entries = [(path, bytes.fromhex(files[path]["digest"]), files[path]["executable"]) for path in wanted]
            with Progress("link") as linking:
                linked = _engine.link_entries(store, into, entries, linking)
        tell(linked, into, store)
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
        return _Reader(raw, buffer_size=BUFFER_BYTES)


def _is_there(path: str, entry: dict[str, Any]) -> bool:
    """Whether a path holds the entry's bytes already. Another file there is a conflict, found before any is written."""
    if not os.path.lexists(path):
        return False
    with translated():
        if os.path.isfile(path) and _engine.hash_file(path) == entry["digest"]:
            return True
    raise ConflictError(f"{path} is there and something else", hint="remove it, or choose another directory")


class _Reader(io.BufferedReader):
    """Passes a long read on as it is: split along the buffer's borders it would cost two requests."""

    raw: _Seekable

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < BUFFER_BYTES:
            return super().read(size)
        at = self.tell()
        self.raw.seek(at)
        data = b"".join(self.raw.steps(size))
        self.seek(at + len(data))
        return data


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

    def readall(self) -> bytes:
        return b"".join(self.steps(self._size))

    def steps(self, length: int) -> Iterator[bytes]:
        """The bytes from here on, as far as there are any, in as few parts as `read_at` gives them."""
        end = min(self._at + length, self._size)
        while self._at < end:
            data = self.read_at(self._at, end - self._at)
            self._at += len(data)
            yield data

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
        self._read_to = -1  # where the last read ended
        self._ahead_bytes = 0
        table = b""
        if size > WHOLE_BYTES:
            for _, _, blocks in artifacts.chunk_tables(session, version, [(digest, size)]):
                table = b"".join(blocks)
        if not table:
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
        length = min(length, STEP_BYTES)
        first, last = bisect_right(self._ends, offset), bisect_right(self._ends, offset + length - 1)
        with self._lock:
            chunks = self._chunks_of(first, last, is_reading_on=offset == self._read_to)
            self._read_to = offset + length
        start = offset - (self._ends[first] - self._lengths[first])
        if first == last:
            return chunks[0][start : start + length]
        return b"".join(chunks)[start : start + length]

    def _chunks_of(self, first: int, last: int, *, is_reading_on: bool) -> list[bytes]:
        """The chunks, from the cache or the server."""
        held = {digest: self._cache[digest] for digest in self._chunks[first : last + 1] if digest in self._cache}
        wanted = {number for number in range(first, last + 1) if self._chunks[number] not in held}
        if wanted:
            # A jump gets what it asks for and no more: it is perhaps the footer of a file, or one column of many.
            ahead_bytes = self._ahead_bytes if is_reading_on else 0
            self._ahead_bytes = min(max(LEAST_AHEAD_BYTES, 2 * ahead_bytes), MOST_AHEAD_BYTES) if is_reading_on else 0
            end = bisect_right(self._ends, self._ends[last] + ahead_bytes - 1, last) if ahead_bytes else last
            behind = range(last + 1, min(end, len(self._chunks) - 1) + 1)
            wanted |= {number for number in behind if self._chunks[number] not in self._cache}
            held |= self._fetch(sorted(wanted))
        for digest in self._chunks[first : last + 1]:
            if digest in self._cache:
                self._cache.move_to_end(digest)
        return [held[digest] for digest in self._chunks[first : last + 1]]

    def _fetch(self, numbers: list[int]) -> dict[bytes, bytes]:
        lengths = {self._chunks[number]: self._lengths[number] for number in numbers}
        try:
            fetched = self._receive(numbers, lengths)
        except (
            IntegrityError,
            NotFoundError,
        ):  # changed on the way, or in another pack by now: once more, from the start
            self._places.clear()
            fetched = self._receive(numbers, lengths)
        for digest, chunk in fetched.items():
            self._keep(digest, chunk)
        return fetched

    def _receive(self, numbers: list[int], lengths: dict[bytes, int]) -> dict[bytes, bytes]:
        for block in sorted(
            {number // LOCATED_CHUNKS for number in numbers if self._chunks[number] not in self._places}
        ):
            asked = list(dict.fromkeys(self._chunks[block * LOCATED_CHUNKS : (block + 1) * LOCATED_CHUNKS]))
            self._places |= zip(asked, artifacts.locate(self._session, self._version, asked), strict=True)
        places = {self._places[digest]: digest for digest in lengths}
        fetched: dict[bytes, bytes] = {}
        for span in ranges(list(places), list(lengths.values())):
            data = artifacts.pack_range(self._session, self._version, span.pack, span.start, span.end)
            for place, digest in places.items():
                if place.pack == span.pack and span.start <= place.offset and place.end <= span.end:
                    with translated():
                        found, chunk = _engine.decode_record(data, place.offset - span.start)
                    if found != digest or len(chunk) != lengths[digest]:
                        raise IntegrityError(f"the server sends another chunk than {digest.hex()}")
                    fetched[digest] = chunk
        return fetched

    def _keep(self, digest: bytes, chunk: bytes) -> None:
        self._cache[digest] = chunk
        self._cached_bytes += len(chunk)
        while self._cached_bytes > CACHE_BYTES:
            _, dropped = self._cache.popitem(last=False)
            self._cached_bytes -= len(dropped)

"""Objects of a version into the store, from chunks that are there and ranges of the server's packs.

```text
objects ─ skip what is here ─ chunk tables ─ chunks that are here ─ locate ─ ranges, several at once ─ verify
```

Every chunk is verified before it is written, every object before it appears in the store. When a call is interrupted
the objects that are complete stay, and of large ones the chunks that have come: the next call goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass

from t9k.em import _engine
from t9k.em.client import artifacts
from t9k.em.client.artifacts import Place, Version
from t9k.em.client.session import Session
from t9k.em.errors import IntegrityError, NotFoundError, translated
from t9k.em.transfer.progress import TransferProgress, Travelling
from t9k.protocol import DIGEST_BYTES

RANGE_BYTES = 8 << 20
"""Longest range of a pack that is asked for at once; each receiver holds one."""

GAP_BYTES = 64 << 10
"""Records this near to each other come in one range: a request costs more than the bytes between."""

RECEIVERS = 4
"""Ranges in flight."""

WHOLE_BYTES = 256 << 10
"""A longer object has a chunk table, a shorter one is one chunk (`docs/formats.md`)."""

WINDOW_BYTES = 4 << 30
WINDOW_OBJECTS = 1 << 15
WINDOW_FILES = 256
"""Objects that are put together at once: their chunks take memory, and those with a table an open file each."""

SCAN_BYTES = 64 << 20
"""Chunk tables of the store that are read for chunks to share, the newest first: about a second."""

WORTH_SCANNING_BYTES = 1 << 20

_Object = tuple[bytes, int]
"""Digest and size."""


def fetch(
    session: Session, version: Version, store: str, objects: Sequence[_Object], progress: TransferProgress
) -> None:
    """When this returns the store has the objects, each verified.

    Raises:
        IntegrityError: What the server sends, twice, are not the objects' bytes. Nothing of it is in the store.
        StoreError: The disk is full.
        EmError: As `Session.request`.
    """
    with translated(), ThreadPoolExecutor(RECEIVERS, thread_name_prefix="em-load") as threads:
        opened = _engine.Store(store)
        for window in _windows(_lacking(opened, objects)):
            download = _Download(session, version, store, progress, threads)
            left = download.assemble(window)
            # A wrong chunk table costs the whole object: ask for it once more.
            if left and download.assemble(left):
                raise download.error or IntegrityError(
                    f"the chunks that the server has of {version.path} are not its bytes",
                    hint="upload the artifact again from where it is whole",
                )


def _lacking(store: str | _engine.Store, objects: Iterable[_Object]) -> list[_Object]:
    return [(digest, size) for digest, size in objects if not _engine.usable(store, digest, size)]


def _windows(objects: Iterable[_Object]) -> Iterator[list[_Object]]:
    window: list[_Object] = []
    size_bytes = files = 0
    for digest, size in objects:
        window.append((digest, size))
        size_bytes += size
        files += size > WHOLE_BYTES
        if size_bytes >= WINDOW_BYTES or files >= WINDOW_FILES or len(window) >= WINDOW_OBJECTS:
            yield window
            window, size_bytes, files = [], 0, 0
    if window:
        yield window


@dataclass
class _Range:
    """Bytes of a pack, and the runs of wanted records in them: between runs there may be anything."""

    pack: bytes
    start: int
    end: int
    runs: list[tuple[int, int]]
    raw_bytes: int


class _Download:
    """One window of objects on its way.

    Attributes:
        error: Why chunks were refused or not there, if any were.
    """

    def __init__(
        self, session: Session, version: Version, store: str, progress: TransferProgress, threads: ThreadPoolExecutor
    ) -> None:
        self.error: IntegrityError | NotFoundError | None = None
        self._session = session
        self._version = version
        self._store = store
        self._progress = progress
        self._threads = threads

    def assemble(self, objects: Sequence[_Object]) -> list[_Object]:
        """Puts objects together; the answer are those that could not be."""
        with _engine.Assembly(self._store) as assembly:
            try:
                self._ask(assembly, objects)
            except (IntegrityError, _engine.EngineError) as error:
                self._note(error)
            while self._wants_more(assembly) and self._receive_all(assembly):
                pass
        return _lacking(self._store, objects)

    def _wants_more(self, assembly: _engine.Assembly) -> bool:
        """Whether chunks are missing; tables may be found to contradict each other only now."""
        try:
            return assembly.want_more()
        except _engine.EngineError as error:
            self._note(error)
            return False

    def _receive_all(self, assembly: _engine.Assembly) -> bool:
        """Gets what chunks are missing now, from the store or the server; whether all of them came."""
        assembly.take_left()
        take_local(assembly, self._store)
        digests, lengths = assembly.wanted()
        self._progress.plan(sum(memoryview(lengths).cast("I")))
        for _ in range(2):  # what came wrong, or was elsewhere, comes once more
            if not digests:
                break
            self._receive(assembly, split(digests), memoryview(lengths).cast("I"))
            digests, lengths = assembly.wanted()
        return not digests

    def _note(self, error: Exception) -> None:
        """Keeps an error of integrity, and raises another."""
        if isinstance(error, _engine.EngineError):
            if error.kind != "integrity":
                raise error
            error = IntegrityError(error.message, hint=error.hint)
        if not isinstance(error, IntegrityError):
            raise error
        self.error = error

    def _ask(self, assembly: _engine.Assembly, objects: Sequence[_Object]) -> None:
        large = []
        for digest, size in objects:
            if size > WHOLE_BYTES:
                large.append((digest, size))
            else:
                assembly.add(digest, size)
        if large:
            for digest, size, table in artifacts.chunk_tables(self._session, self._version, large):
                for block in table:
                    assembly.push_table(digest, block)
                assembly.add(digest, size)

    def _receive(self, assembly: _engine.Assembly, digests: list[bytes], lengths: Sequence[int]) -> None:
        places = artifacts.locate(self._session, self._version, digests)
        futures = [self._threads.submit(self._take, assembly, span) for span in ranges(places, lengths)]
        try:
            for future in wait(futures, return_when=FIRST_EXCEPTION).done:
                future.result()
        except BaseException:
            self._progress.stop()
            assembly.cancel()
            raise
        finally:
            for future in futures:
                future.cancel()
            wait(futures)  # none may use the assembly once it is closed

    def _take(self, assembly: _engine.Assembly, span: _Range) -> None:
        try:
            with Travelling(self._progress, span.raw_bytes, span.end - span.start) as passed:
                data = artifacts.pack_range(self._session, self._version, span.pack, span.start, span.end, passed)
        except NotFoundError as error:  # the chunks are in another pack by now: `_receive_all` asks where
            self.error = error
            return
        try:
            if len(data) != span.end - span.start:
                raise IntegrityError(f"the server sends {len(data)} bytes of a pack, not {span.end - span.start}")
            for start, end in span.runs:
                assembly.take_records(memoryview(data)[start - span.start : end - span.start])
        except (IntegrityError, _engine.EngineError) as error:
            self._note(error)
        else:
            self._progress.moved(span.raw_bytes, len(data))


def split(digests: bytes) -> list[bytes]:
    """Digests that lie one behind the other."""
    return [digests[start : start + DIGEST_BYTES] for start in range(0, len(digests), DIGEST_BYTES)]


def ranges(places: Sequence[Place], lengths: Sequence[int]) -> list[_Range]:
    """The fewest ranges with all places, in the order of the packs.

    Args:
        places: Of records.
        lengths: Of their chunks.
    """
    found: list[_Range] = []
    for place, length in sorted(zip(places, lengths, strict=True), key=lambda pair: (pair[0].pack, pair[0].offset)):
        last = found[-1] if found else None
        if (
            last is None
            or last.pack != place.pack
            or not last.end <= place.offset <= last.end + GAP_BYTES
            or place.end - last.start > RANGE_BYTES
        ):
            found.append(_Range(place.pack, place.offset, place.end, [(place.offset, place.end)], length))
            continue
        if place.offset == last.end:
            last.runs[-1] = (last.runs[-1][0], place.end)
        else:
            last.runs.append((place.offset, place.end))
        last.end = place.end
        last.raw_bytes += length
    return found


def take_local(assembly: _engine.Assembly, store: str) -> None:
    """Takes wanted chunks from objects of the store that share some, as a former version of the artifact does."""
    missing_bytes = sum(memoryview(assembly.wanted()[1]).cast("I"))
    if missing_bytes < WORTH_SCANNING_BYTES:
        return
    for digest in _newest_tables(store):
        with suppress(_engine.EngineError):  # collected or damaged meanwhile: its chunks are fetched
            missing_bytes -= assembly.take_from(digest)
        if missing_bytes <= 0:
            break


def _newest_tables(store: str) -> Iterator[bytes]:
    """Objects of the store that have a chunk table, the newest first, until `SCAN_BYTES` of tables were read."""
    tables = []
    with suppress(FileNotFoundError), os.scandir(os.path.join(store, "chunks")) as prefixes:
        for prefix in prefixes:
            with os.scandir(prefix.path) as files:
                for file in files:
                    if len(prefix.name) == 2 and len(file.name) == 2 * DIGEST_BYTES - 2:
                        known = file.stat(follow_symlinks=False)
                        tables.append((known.st_mtime_ns, known.st_size, prefix.name + file.name))
    read_bytes = 0
    for _, size_bytes, name in sorted(tables, reverse=True):
        read_bytes += size_bytes
        if read_bytes > SCAN_BYTES:
            break
        yield bytes.fromhex(name)

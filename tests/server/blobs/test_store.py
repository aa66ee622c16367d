"""What every blob store must do. An implementation is added to `make_store`, and passes all of this.

Stores are opened in processes of their own where they are killed, so that a dead put is a real one.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from t9k.aistore.blobs.local import LocalBlobStore
from t9k.aistore.blobs.store import BlobStore

MAKERS: dict[str, Callable[[Path], BlobStore]] = {"local": LocalBlobStore}
"""Implementations by name. Each opens the same store again for the same path."""

BODY = bytes(range(256)) * 5000


@pytest.fixture(params=MAKERS)
def kind(request: pytest.FixtureRequest) -> str:
    """Name of an implementation."""
    return str(request.param)


@pytest.fixture
def store(kind: str, tmp_path: Path) -> BlobStore:
    """An empty store."""
    return MAKERS[kind](tmp_path / "store")


def test_blob_is_what_was_put(store: BlobStore) -> None:
    assert store.put_if_absent("packs/ab/one", BODY)
    assert store.get("packs/ab/one") == BODY
    assert store.size("packs/ab/one") == len(BODY)


def test_room_is_unknown_or_some(store: BlobStore) -> None:
    room = store.room()
    assert room is None or room > len(BODY)


@pytest.mark.parametrize("data", [b"", b"x", bytearray(b"array"), memoryview(b"-view-")[1:-1]])
def test_any_buffer_is_taken(store: BlobStore, data: bytes) -> None:
    assert store.put_if_absent("a", data)
    assert store.get("a") == bytes(data)


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, 0), (100, 50), (100, None), (len(BODY) - 5, 50), (len(BODY), 1), (len(BODY) + 9, 1)],
)
def test_range_is_that_part_and_ends_with_the_blob(store: BlobStore, offset: int, length: int | None) -> None:
    store.put_if_absent("a", BODY)
    end = None if length is None else offset + length
    assert store.get("a", offset, length) == BODY[offset:end]


def test_first_put_wins(store: BlobStore) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert store.get("a") == b"first"


def test_parts_are_one_blob_that_nobody_sees_before_it_is_finished(store: BlobStore) -> None:
    writer = store.writer("ab/parts")
    part = bytearray(BODY)
    writer.write(part)
    part[:] = bytes(len(part))  # what was taken does not change with its memory
    writer.write(b"end")
    assert store.size("ab/parts") is None
    assert list(store.list()) == []
    assert writer.finish()
    writer.abandon()
    assert store.get("ab/parts") == BODY + b"end"


@pytest.mark.parametrize("lengths", [(4 << 20,), (2 << 20, (1 << 20) + 5), ((1 << 20) + 5, 2 << 20), (3, 2 << 20, 7)])
@pytest.mark.parametrize("start", [0, 512, 1])
def test_long_parts_are_what_was_written_wherever_their_memory_begins(
    store: BlobStore, lengths: tuple[int, ...], start: int
) -> None:
    memory = memoryview(mmap.mmap(-1, start + sum(lengths)))
    memory[:] = random.Random(0).randbytes(len(memory))
    writer, at = store.writer("a"), start
    for length in lengths:
        writer.write(memory[at : at + length])
        at += length
    assert writer.finish()
    assert store.get("a") == memory[start:]


def test_blob_that_was_abandoned_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    writers = [store.writer("ab/none") for _ in range(2)]
    writers[0].write(BODY)
    for writer in writers:  # one of them has written nothing
        writer.abandon()
        writer.abandon()
    assert store.size("ab/none") is None
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []


def test_first_writer_that_finishes_wins(store: BlobStore) -> None:
    first, second, empty = store.writer("a"), store.writer("a"), store.writer("empty")
    second.write(b"second")
    first.write(b"first")
    assert first.finish()
    assert not second.finish()
    assert empty.finish()
    assert (store.get("a"), store.get("empty")) == (b"first", b"")


def test_blob_that_is_not_there_is_told_so(store: BlobStore) -> None:
    with pytest.raises(FileNotFoundError):
        store.get("none")
    assert store.size("none") is None
    store.delete("none")


def test_deleted_blob_is_gone_and_can_be_put_again(store: BlobStore) -> None:
    store.put_if_absent("a/b", b"x")
    store.delete("a/b")
    assert store.size("a/b") is None
    assert list(store.list()) == []
    assert store.put_if_absent("a/b", b"y")


def test_listing_has_keys_sizes_and_times(store: BlobStore) -> None:
    before_us = time.time_ns() // 1000 - 2_000_000
    for key in ("packs/ab/1", "packs/cd/2", "manifests/ab/3"):
        store.put_if_absent(key, b"x" * len(key))
    found = {blob.key: blob for blob in store.list()}
    assert set(found) == {"packs/ab/1", "packs/cd/2", "manifests/ab/3"}
    assert all(blob.size_bytes == len(key) for key, blob in found.items())
    assert all(before_us < blob.changed_us < before_us + 60_000_000 for blob in found.values())
    assert {blob.key for blob in store.list("packs/")} == {"packs/ab/1", "packs/cd/2"}


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", "A", "a.b", "a\0b", "ä", "a/.tmp-x", " a"])
def test_other_keys_are_refused(store: BlobStore, key: str) -> None:
    for call in (lambda: store.put_if_absent(key, b"x"), lambda: store.get(key), lambda: store.delete(key)):
        with pytest.raises(ValueError, match="is not the key of a blob"):
            call()


def test_of_puts_at_once_one_is_the_first_and_all_see_it_whole(store: BlobStore) -> None:
    bodies = [bytes([number]) * 100_000 for number in range(8)]
    won: list[int] = []
    barrier = threading.Barrier(len(bodies))

    def put(number: int) -> None:
        barrier.wait()
        if store.put_if_absent("ab/same", bodies[number]):
            won.append(number)
        assert store.get("ab/same") in bodies

    threads = [threading.Thread(target=put, args=(number,)) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("ab/same") == bodies[won[0]]
    assert [blob.key for blob in store.list()] == ["ab/same"]


def test_listing_while_blobs_come_and_go_has_those_that_stay(store: BlobStore) -> None:
    for number in range(50):
        store.put_if_absent(f"stays/{number}", b"x")
    stop = threading.Event()

    def churn() -> None:
        number = 0
        while not stop.is_set():
            store.put_if_absent(f"goes/{number}", b"x")
            store.delete(f"goes/{number}")
            number += 1

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(20):
            keys = [blob.key for blob in store.list()]
            assert len([key for key in keys if key.startswith("stays/")]) == 50
            assert all(key.startswith(("stays/", "goes/")) for key in keys)
    finally:
        stop.set()
        thread.join()


PUTTER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import MAKERS
store = MAKERS[{kind!r}](Path({path!r}))
body = bytes(4 << 20)
for number in range(10_000):
    store.put_if_absent(f"packs/{{number % 16:x}}/{{number}}", body)
    print(number, flush=True)
"""


def test_put_that_was_killed_is_whole_or_not_there_and_is_swept(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    code = PUTTER.format(tests=str(Path(__file__).parent), kind=kind, path=str(path))
    for turn in range(6):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.01 + 0.013 * turn)
            process.send_signal(signal.SIGKILL)
            told = [int(line) for line in process.stdout.read().split()]
        store = MAKERS[kind](path)
        found = {blob.key: blob.size_bytes for blob in store.list()}
        assert set(found.values()) == {4 << 20}
        assert {f"packs/{number % 16:x}/{number}" for number in told} <= set(found)
        for key in found:
            store.delete(key)
    store.sweep(time.time_ns() // 1000 + 10_000_000)
    left = [name for _, _, names in os.walk(path) for name in names]
    assert left == []


def test_sweep_leaves_puts_that_may_be_in_flight(kind: str, tmp_path: Path) -> None:
    store = MAKERS[kind](tmp_path / "store")
    store.put_if_absent("ab/x", b"x")
    (tmp_path / "store" / "ab" / ".tmp-0").write_bytes(b"half")
    assert store.sweep(time.time_ns() // 1000 - 60_000_000) == 0
    assert [blob.key for blob in store.list()] == ["ab/x"]
    assert store.sweep(time.time_ns() // 1000 + 60_000_000) == 1
    assert store.get("ab/x") == b"x"


FILLER = """
import errno, resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_store import MAKERS
store = MAKERS[{kind!r}](Path({path!r}))
store.put_if_absent("a/fits", bytes(1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    store.put_if_absent("a/long", bytes(3 << 20))
except OSError as error:
    assert error.errno == errno.EFBIG
    assert store.size("a/long") is None
    assert store.put_if_absent("a/more", bytes(1000))
    print("refused")
"""


def test_put_that_finds_no_room_leaves_nothing(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "store"
    code = FILLER.format(tests=str(Path(__file__).parent), kind=kind, path=str(path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "refused\n", done.stderr
    assert {blob.key for blob in MAKERS[kind](path).list()} == {"a/fits", "a/more"}
    assert not [name for _, _, names in os.walk(path) for name in names if name.startswith(".tmp")]


def test_full_file_system_is_enospc_and_goes_on_when_there_is_room(
    kind: str, small_disk: Callable[[int], Path]
) -> None:
    store = MAKERS[kind](small_disk(4) / "store")
    assert store.put_if_absent("a/1", bytes(3 << 20))
    with pytest.raises(OSError, match="No space left") as refused:
        store.put_if_absent("a/2", bytes(3 << 20))
    assert refused.value.errno == errno.ENOSPC
    assert store.size("a/2") is None
    assert store.get("a/1", 0, 10) == bytes(10)
    store.delete("a/1")
    assert store.put_if_absent("a/2", bytes(3 << 20))

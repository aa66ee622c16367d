"""Forks and Ctrl-C in the middle of an add."""

import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import xxhash
from t9k import em
from t9k.em import _engine

from .conftest import contents, leftovers, problems, run, traced, tree, without_entry

SOURCES = 2000


def many(files: int = SOURCES) -> None:
    Path("many").mkdir()
    for index in range(files):
        Path("many", str(index)).write_bytes(index.to_bytes(4) * 500)


def test_children_forked_while_an_add_goes_on_add_too_and_so_does_the_parent() -> None:
    many(300)
    Path("many", "large").write_bytes(os.urandom((3 << 20) + 1))
    Path("long").mkdir()
    sparse(Path("long/sparse"))
    endless, artifact, *others = [em.create_artifact("x") for _ in range(5)]
    ticks, enough = threading.Semaphore(0), threading.Event()

    def progress(*_: int) -> None:
        ticks.release()
        if enough.is_set():
            raise InterruptedError

    def add() -> None:
        with pytest.raises(InterruptedError):
            _engine.add_dir(".em/store", endless.local, "long", "long", progress)

    def child(other: em.Artifact) -> None:
        signal.alarm(120)  # one that hangs is killed
        other.add_dir("many")

    adding = threading.Thread(target=add)
    adding.start()
    try:
        for other in others:
            # Each at another moment of the add, whose threads do not live in the child.
            assert ticks.acquire(timeout=60)
            ended = run(partial(child, other))
            assert ended.ok, ended
        artifact.add_dir("many")
        assert adding.is_alive()
    finally:
        enough.set()
        adding.join()
    assert contents(endless) == {}
    for other in (artifact, *others):
        assert contents(other) == tree("many")
        assert problems(other) == leftovers(other) == []
    assert problems() == leftovers(endless) == []


def test_a_child_forked_after_an_add_and_its_own_child_add_too() -> None:
    many(100)
    Path("many", "large").write_bytes(os.urandom((3 << 20) + 1))
    artifact, other, third = em.create_artifact("x"), em.create_artifact("y"), em.create_artifact("z")
    artifact.add_dir("many")

    def child() -> None:
        other.add_dir("many")
        inner = run(lambda: third.add_dir("many"))
        assert inner.ok, inner.message

    ended = run(child)
    assert ended.ok, ended.message
    artifact.add_dir("many", "again")
    assert contents(other) == contents(third) == tree("many")
    assert problems(artifact) == problems(third) == problems() == leftovers(artifact) == []


def test_a_child_forked_inside_an_add_holds_nothing_of_it() -> None:
    """The lease and the intent belong to the parent, and end with it although the child lives on."""
    many()
    artifact = em.create_artifact("x")
    _engine.verify(".em/store")
    script = f"""
import os, threading, time
from t9k import em
from t9k.em import _engine
adding = threading.Thread(target=_engine.add_dir, args=(".em/store", {artifact.local!r}, "many", "many"))
adding.start()
while not os.listdir(".em/store/leases"):
    pass
if os.fork() == 0:
    time.sleep(60)
os.kill(os.getpid(), 9)
"""
    parent = subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], start_new_session=True)
    try:
        assert parent.wait() == -9
        artifact = em.load_artifact(artifact.local)
        assert contents(artifact) in ({}, tree("many"))
        artifact.add_dir("many")
        _engine.gc(".em/store", 0, False)
        assert leftovers(artifact) == problems() == []
    finally:
        os.killpg(parent.pid, signal.SIGKILL)


def bytes_read(process: int | str) -> int:
    """By system calls, since the process began."""
    return int(re.search(r"rchar: (\d+)", Path(f"/proc/{process}/io").read_text())[1])


def interrupted(call: str) -> tuple[int, int]:
    """Bytes that an engine's call reads after Ctrl-C, and the most it had read between two ticks of 100 ms before."""
    script = f"""
from t9k.em import _engine
from tests.faults.test_fork import bytes_read
seen = [bytes_read("self")]
def progress(*_):
    seen.append(bytes_read("self"))
    if len(seen) == 4:
        print("inside", flush=True)
try:
    _engine.{call}
except KeyboardInterrupt:
    print("ended", bytes_read("self"), max(after - before for before, after in zip(seen, seen[1:])), flush=True)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n"
        # In this order: what is read while this process waits for its turn in between is none of the call's.
        process.send_signal(signal.SIGINT)
        before = bytes_read(process.pid)
        ended, after, fastest = process.stdout.read().split()
    assert ended == "ended"
    return int(after) - before, int(fastest)


def sparse(path: Path) -> None:
    """Costs no disk, and takes long to read."""
    with path.open("wb") as file:
        file.write(bytes([len(path.name)]))
        file.truncate(64 << 30)


@pytest.mark.parametrize("files", [1, 8])
def test_ctrl_c_ends_a_long_add_within_half_a_second_of_its_own_pace_and_leaves_nothing(files: int) -> None:
    Path("long").mkdir()
    for index in range(files):
        sparse(Path("long", "f" * (index + 1)))
    artifact = em.create_artifact("x")
    after, tick = interrupted(f"add_dir('.em/store', {artifact.local!r}, 'long', 'long', progress)")
    assert after < 5 * tick
    assert contents(artifact) == {}
    assert problems(artifact) == problems() == leftovers(artifact) == []


def test_ctrl_c_ends_a_long_hash_and_a_long_verify() -> None:
    sparse(Path("long"))
    after, tick = interrupted("hash_file('long', progress)")
    assert after < 5 * tick
    # An endless file too, whose size says nothing.
    after, tick = interrupted("hash_file('/dev/zero', progress)")
    assert after < 5 * tick
    _engine.verify(".em/store")
    Path(".em/store/objects/ab").mkdir()
    Path("long").rename(Path(".em/store/objects/ab", "0" * 62))
    after, tick = interrupted("verify('.em/store', None, progress)")
    assert after < 5 * tick


ENTRIES = 100_000


@pytest.fixture(scope="module")
def long_manifest() -> bytes:
    """The manifest of files of one byte, a thousand in a directory: 5 MB, of which 16 KiB are read at a time."""
    entries = b"".join(
        struct.pack("<BH", 0, 7) + b"%03d/%03d" % divmod(index, 1000) + struct.pack("<Q32s", 1, b"d" * 32)
        for index in range(ENTRIES)
    )
    body = struct.pack("<8sIQ", b"EMMANIF", 1, ENTRIES) + entries
    return body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body))


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    "call",
    [
        lambda artifact: _engine.read_entries(artifact),
        lambda artifact: _engine.manifest_digest(artifact),
        lambda artifact: _engine.differences(artifact, artifact),
        lambda artifact: _engine.diff(".em/store", artifact, artifact),
        lambda artifact: _engine.usage(".em/store", [artifact]),
        lambda artifact: _engine.gc(".em/store", 0, False),
        lambda artifact: _engine.verify(".em/store", artifact),
        lambda artifact: _engine.recover(".em/store", artifact),
        lambda artifact: _engine.add_reference(artifact, "b", "s3://bucket/b"),
        lambda artifact: _engine.add_dir(".em/store", artifact, "few", "few"),
    ],
    ids=["read", "digest", "differences", "diff", "usage", "gc", "verify", "recover", "reference", "add"],
)
@pytest.mark.parametrize("way", [0.1, 1.1])
def test_ctrl_c_ends_calls_on_a_long_manifest(call: Callable[[str], object], way: float, long_manifest: bytes) -> None:
    """Also when it has been read once, for its checksum. Each read takes 2 ms here, and a tick is 100 ms."""
    Path("few").mkdir()
    Path("few/file").write_text("file")
    artifact = em.create_artifact("x").local
    _engine.verify(".em/store")
    inner = Path(artifact, ".artifact")
    inner.joinpath("manifest-0000000001").write_bytes(long_manifest)
    # An add of a process that is gone had begun.
    boot, namespace = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")
    inner.joinpath("intent-x").write_text(f"{os.uname().nodename} {boot} {namespace} 4194305 1\0" + "000/000")
    before = {path for path in Path().rglob("*") if path.name != "strace.log"}
    reads = len(long_manifest) >> 14

    def work() -> None:
        def interrupt() -> None:
            while Path("strace.log").read_text(errors="replace").count("pread64(") < way * reads:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        call(artifact)

    ended = traced(work, "--trace=pread64", "--inject=pread64:delay_enter=2ms")
    assert ended.error == "KeyboardInterrupt", ended.message
    _, signalled, after = ended.log.partition("--- SIGINT")
    assert signalled, "it had ended before"
    assert after.count("pread64(") < 150
    assert {path for path in Path().rglob("*") if path.name != "strace.log"} == before


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("again", ["add", "load", "gc", "gc command"])
def test_ctrl_c_of_an_add_that_links_leaves_what_takes_long_to_the_next_call(
    again: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each link and each removal takes 20 ms here; a tick is 100 ms, and 200 ms are there to tidy up."""
    monkeypatch.setenv("EM_THREADS", "1")
    many(200)
    Path("few").mkdir()
    Path("few/file").write_text("new")
    Path("few/0").write_text("new")
    artifact = em.create_artifact("x")
    artifact.add_dir("few", "before")
    Path("few/0").write_text("newer")
    before = contents(artifact)
    links, removals = "linkat", "unlink,unlinkat"

    def work() -> None:
        def interrupt() -> None:
            while Path("strace.log").read_text(errors="replace").count("linkat(") < 60:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=interrupt, daemon=True).start()
        artifact.add_dir("many", "before")

    inject = [f"--inject={calls}:delay_enter=20ms" for calls in (links, removals)]
    ended = traced(work, f"--trace={links},{removals}", *inject)
    assert ended.error == "KeyboardInterrupt", ended.message
    after = ended.log.partition("--- SIGINT")[2]
    assert after.count(" linkat(") < 40, "it goes on for less than half a second of its own pace"
    assert 0 < len(re.findall(r" unlink(at)?\(", after)) < 40
    # Nothing of it is in the artifact.
    assert [entry["path"] for entry in artifact.objects] == ["before/0", "before/file"]
    assert [path.name.partition("-")[0] for path in Path(artifact.local, ".artifact").glob("[iu]n*")] == ["undo"]
    assert list(Path(".em/store/leases").iterdir()) == []
    # And nothing of it stays.
    if again == "add":
        artifact.add_file("few/file", "another")
        before |= {"another": b"new"}
    elif again == "load":
        em.load_artifact(artifact.local)
    elif again == "gc":
        _engine.gc(".em/store", 0, False)
    else:
        done = subprocess.run([sys.executable, "-m", "t9k.em", "gc", "--older-than=0s"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # What is told first is exact: the objects have no other names any more.
        told, freed = (re.search(pattern, done.stdout) for pattern in (r"frees ([\d,]+)", r"freed ([\d,]+)"))
        assert told is not None
        assert freed is not None
        assert told[1] == freed[1] != "0"
    assert contents(artifact) == before
    assert without_entry(artifact) == []
    assert problems(artifact) == problems() == leftovers(artifact) == []


def test_an_exception_of_the_progress_call_ends_the_add() -> None:
    many()
    artifact = em.create_artifact("x")
    seen = []

    def progress(*counts: int) -> None:
        seen.append(counts)
        raise ZeroDivisionError

    try:
        _engine.add_dir(".em/store", artifact.local, "many", "many", progress)
    except ZeroDivisionError:
        assert contents(artifact) == {}
    assert leftovers(artifact) == problems() == []

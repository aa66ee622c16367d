"""Forks and Ctrl-C in the middle of an add."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from t9k import em
from t9k.em import _engine

from .conftest import contents, leftovers, problems, tree

SOURCES = 2000


def many() -> None:
    Path("many").mkdir()
    for index in range(SOURCES):
        Path("many", str(index)).write_bytes(index.to_bytes(4) * 500)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_forked_child_uses_the_engine_while_the_parent_is_inside_an_add() -> None:
    many()
    Path("small").mkdir()
    Path("small/file").write_text("small")
    artifact, others = em.create_artifact("x"), [em.create_artifact("y") for _ in range(3)]
    inside = threading.Event()

    def progress(files: int, *_: int) -> None:
        if files:
            inside.set()

    adding = threading.Thread(
        target=_engine.add_dir, args=(".em/store", artifact.local, "many", "many"), kwargs={"progress": progress}
    )
    adding.start()
    inside.wait(2)
    children = []
    for other in others:
        child = os.fork()
        if child == 0:
            try:
                other.add_dir("small")
                os._exit(0 if contents(other) == {"small/file": b"small"} else 1)
            finally:
                os._exit(2)
        children.append(child)
        time.sleep(0.01)
    ends = time.monotonic() + 20
    for child in children:
        while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < ends, "the child hangs"
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(status[1]) == 0
    adding.join()
    assert contents(artifact) == tree("many")
    assert problems(artifact) == problems() == leftovers(artifact) == []


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


def test_ctrl_c_ends_a_long_add_and_leaves_nothing() -> None:
    Path("long").mkdir()
    for index in range(8):
        # Sparse, so that it costs no disk: hashing them all takes many seconds.
        with Path("long", str(index)).open("wb") as file:
            file.write(bytes([index]))
            file.truncate(4 << 30)
    artifact = em.create_artifact("x")
    script = f"""
import signal, time
from t9k import em
from t9k.em import _engine
seen = []
def progress(files, bytes_, total_files, total_bytes):
    seen.append((bytes_, total_bytes))
    if bytes_ and len(seen) > 2:
        print("inside", flush=True)
try:
    _engine.add_dir(".em/store", {artifact.local!r}, "long", "long", progress)
except KeyboardInterrupt:
    print("ended", *seen[-1], flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout as output:
        assert output.readline() == "inside\n"
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        last = output.read().splitlines()[-1]
        process.wait()
    ended, done, total = last.split()
    assert ended == "ended"
    # Half a second on a free machine; a busy one may need more, but never until the add would have been done.
    assert int(done) < int(total) / 2
    assert time.monotonic() - sent < 5
    assert contents(artifact) == {}
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

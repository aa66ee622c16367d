"""An add that is killed leaves the artifact as it was, or as it was to be."""

import mmap
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import oracle
import pytest
from t9k import em
from t9k.em import _engine

from .conftest import (
    CALLS,
    POINTS,
    Child,
    check_after,
    contents,
    leftovers,
    points,
    problems,
    run,
    some,
    traced,
    tree,
    whole_files,
)


def small_sources() -> None:
    """`b`, what it replaces, and two trees beside it: bytes, modes, empty files and empty directories change."""
    for name, texts in {"a": ["one", "two"], "b": ["two", "three"], "z": ["again"]}.items():
        for index, text in enumerate(texts):
            path = Path(name, "sub" if index else ".", f"{index}.txt")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text} of the files")
    Path("b/large").write_bytes(os.urandom(700_000))
    Path("b/empty").mkdir()
    Path("b/void").touch()
    Path("b/tool").write_text("#!/bin/sh")
    Path("b/tool").chmod(0o755)
    shutil.copytree("b", "earlier/b")
    Path("earlier/b/0.txt").write_text("replaced")
    Path("earlier/b/large").write_bytes(os.urandom(300_000))
    Path("earlier/b/void").write_text("not yet void")
    Path("earlier/b/tool").chmod(0o644)
    Path("earlier/b/gone").write_text("stays an entry")
    Path("b/full").mkdir()
    Path("b/full/file").write_text("in what was empty")
    Path("earlier/b/full").mkdir()


def fresh(original: Path) -> str:
    """The state before the add, once more, with its hard links."""
    shutil.rmtree(".em", ignore_errors=True)
    shutil.rmtree("cache", ignore_errors=True)
    subprocess.run(["cp", "-a", original, ".em"], check=True)
    return str(next(Path(".em/artifacts").iterdir()))


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("state", "mode"),
    [
        ("empty", "hardlink"),
        ("earlier", "hardlink"),
        ("earlier", "copy"),
        ("interrupted", "hardlink"),
        ("interrupted", "copy"),
    ],
)
def test_killed_at_every_write(state: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an add of new paths, of one that replaces, and of one that first undoes another that was killed."""
    monkeypatch.setenv("EM_THREADS", "1")
    monkeypatch.setenv("EM_LINK_MODE", mode)
    small_sources()
    artifact = em.create_artifact("x")
    if state != "empty":
        artifact.add_dir("a")
        artifact.add_dir("earlier/b")
    before = contents(artifact)
    if state == "interrupted":
        interrupt(artifact)
    interrupted = (
        [before | {path.removeprefix("c/"): data for path, data in tree("c/b").items()}]
        if state == "interrupted"
        else []
    )
    shutil.move(".em", "original")
    original = Path("original")

    local = fresh(original)
    em.load_artifact(local)  # what it imports the first time would be calls that no later child makes
    local = fresh(original)
    log = traced(lambda: em.load_artifact(local).add_dir("b"), f"--trace={CALLS}").log
    after = before | tree("b")
    assert contents(em.load_artifact(local)) == after

    every = list(points(log, lambda call, line: call != "openat" or "O_CREAT" in line))
    assert len(every) > 20
    for call, when in some(every, 2 * POINTS):
        local = fresh(original)

        def work(local: str = local) -> None:
            em.load_artifact(local).add_dir("b")

        ended = traced(work, f"--trace={call}", f"--inject={call}:signal=KILL:when={when}")
        assert ended.signal == 9, (call, when, ended)
        try:
            whole_files(local, before, after, *interrupted)
            check_after(local, before, after, "z")
            if mode == "copy":  # also what was put back
                assert all(Path(local, path).stat().st_nlink == 1 for path in before)
        except Exception as error:
            error.add_note(f"killed at {call} {when}")
            raise


def interrupt(artifact: em.Artifact) -> None:
    """Kills an add of `c` to `b` when it has replaced all and committed nothing."""
    shutil.copytree("b", "c/b")
    Path("c/b/0.txt").write_text("never committed")
    Path("c/b/new").write_text("never committed either")
    Path("c/b/new directory").mkdir()
    Path("c/b/new directory/file").write_text("nor this")
    saved = Path("saved")
    shutil.move(".em", saved)
    fresh(saved)
    log = traced(lambda: artifact.add_dir("c/b"), "--trace=renameat2").log
    *_, (_, commit) = points(log)
    fresh(saved)
    kill = f"--inject=renameat2:signal=KILL:when={commit}"
    ended = traced(lambda: artifact.add_dir("c/b"), "--trace=renameat2", kill)
    assert ended.signal == 9
    assert Path(artifact.local, "b/0.txt").read_text() == "never committed"
    assert Path(artifact.local, "b/new directory/file").exists()


def test_killed_at_random_moments() -> None:
    """Of four adds, the later two of which replace what the first two have added."""
    chance = random.Random(1)
    for number in range(4):
        Path(f"s{number}").mkdir()
        for index in range(30):
            Path(f"s{number}", f"{index}.bin").write_bytes(os.urandom(1 << chance.randrange(20)))
    Path("z").mkdir()
    Path("z/0.txt").write_text("again")
    artifact = em.create_artifact("x")
    original = Path("original")
    shutil.move(".em", original)
    states = [{}]
    for number in range(4):
        added = {path.replace(f"s{number}", f"s{number % 2}"): data for path, data in tree(f"s{number}").items()}
        states.append(states[-1] | added)

    local = fresh(original)
    done = mmap.mmap(-1, 1)

    def work() -> None:
        loaded = em.load_artifact(local)
        for number in range(4):
            loaded.add_dir(f"s{number}", f"s{number % 2}")
            done[0] = number + 1

    def lasts_s() -> float:
        fresh(original)
        started = time.monotonic()
        assert run(work).ok
        return time.monotonic() - started

    lasts = min(lasts_s() for _ in range(3))  # the machine may have stood still

    for _ in range(POINTS):
        fresh(original)
        done[0] = 0
        child = Child(work)
        child.go()
        time.sleep(chance.random() * lasts)
        child.kill()
        child.join()
        returned = done[0]
        whole_files(local, states[returned], states[min(returned + 1, 4)])
        check_after(local, states[returned], states[min(returned + 1, 4)], "z")
    assert artifact.name == "x"


def test_a_killed_add_whose_parent_has_not_noticed() -> None:
    """A zombie holds no lease and no intent."""
    small_sources()
    artifact = em.create_artifact("x")
    artifact.add_dir("a")
    child = Child(lambda: artifact.add_dir("b"))
    lease = Path(".em/store/leases/lease")
    lease.write_text(oracle.owner(child.pid))
    child.kill()
    while ") Z" not in Path(f"/proc/{child.pid}/stat").read_text():
        time.sleep(0.001)
    _engine.gc(".em/store", 0, False)
    assert not lease.exists()
    child.join()


@pytest.mark.usefixtures("strace")
def test_gc_killed_at_every_write() -> None:
    """What is live comes back, what is not goes away, with the next gc."""
    small_sources()
    artifact = em.create_artifact("x")
    artifact.add_dir("a")
    lost = em.create_artifact("lost")
    lost.add_dir("b")
    shutil.rmtree(lost.local)
    before = contents(artifact)
    original = Path("original")
    shutil.move(".em", original)

    def gc() -> None:
        _engine.gc(".em/store", 0, False)

    fresh(original)
    every = list(points(traced(gc, f"--trace={CALLS}").log))
    assert len(every) > 5
    for call, when in every:
        fresh(original)
        ended = traced(gc, f"--trace={call}", f"--inject={call}:signal=KILL:when={when}")
        assert ended.signal == 9, (call, when)
        assert contents(em.load_artifact(artifact.local)) == before
        # Bytes that were condemned are live again, or are stored anew.
        artifact.add_dir("b")
        gc()
        assert contents(artifact) == before | tree("b")
        assert problems(artifact) == problems() == leftovers(artifact) == [], (call, when)

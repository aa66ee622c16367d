"""A system call that fails gives a typed error and changes nothing."""

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from t9k import em
from t9k.em import _engine
from t9k.em.errors import StoreError

from .conftest import (
    CALLS,
    POINTS,
    check_after,
    contents,
    is_what_the_manifest_says,
    leftovers,
    points,
    problems,
    some,
    traced,
    tree,
    whole_files,
)
from .test_kill import fresh, small_sources

WRITES = tuple(CALLS.split(","))
READS = ("openat", "read", "pread64", "newfstatat", "statx", "fstat", "getdents64")


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("error", "calls"),
    [
        ("ENOSPC", WRITES),
        ("EIO", (*WRITES, *READS)),
        ("EMFILE", ("openat",)),
        ("EACCES", ("openat", "mkdir", "mkdirat", "rename", "renameat", "renameat2", "link", "linkat", "fchmod")),
    ],
)
def test_error_at_every_call_of_an_add_that_replaces(
    error: str, calls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_THREADS", "1")
    monkeypatch.setenv("EM_LINK_MODE", "hardlink")
    small_sources()
    artifact = em.create_artifact("x")
    artifact.add_dir("a")
    artifact.add_dir("earlier/b")
    before = contents(artifact)
    directories = {path for path in Path(artifact.local).rglob("*") if path.is_dir()}
    original = Path("original")
    shutil.move(".em", original)
    local = fresh(original)
    log = traced(lambda: artifact.add_dir("b"), f"--trace={','.join(calls)}").log
    assert contents(artifact) == before | tree("b")

    every = list(points(log))
    assert every
    failed = 0
    for call, when in some(every, 3 * POINTS):
        local = fresh(original)
        work = partial(em.Artifact.add_dir, artifact, "b")
        ended = traced(work, f"--trace={call}", f"--inject={call}:error={error}:when={when}")
        if "(INJECTED)" not in ended.log:
            continue
        point = (call, when, error, ended.message, ended.log)
        assert ended.signal == 0, point
        assert ended.error is None or "EmError" in ended.message, point
        failed += ended.error is not None
        # Asked again, not loaded again: on an error nothing is left that a load would have to undo.
        assert contents(artifact) == before | (tree("b") if ended.ok else {}), point
        assert ended.ok or directories == {path for path in Path(local).absolute().rglob("*") if path.is_dir()}, point
        is_what_the_manifest_says(artifact)
        assert [problem for problem in problems() if problem["kind"] != "stray"] == [], point
        artifact = em.load_artifact(local)
        artifact.add_dir("b")
        assert contents(artifact) == before | tree("b"), point
        _engine.gc(".em/store", 0, False)
        assert leftovers(artifact) == [], point
        assert problems() == [], point
    assert failed


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("error", "calls"),
    [
        ("ENOSPC", ("write", "pwrite64", "fallocate", "copy_file_range", "mkdir", "mkdirat", "link", "linkat")),
        ("EIO", WRITES),
        ("EMFILE", ("openat",)),
        ("EACCES", ("linkat", "renameat", "unlinkat", "mkdir")),
    ],
)
@pytest.mark.parametrize("mode", ["hardlink", "copy"])
def test_error_from_some_call_on(
    error: str, calls: tuple[str, ...], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be undone by the add itself, on a disk that stays full, is undone by the next call."""
    monkeypatch.setenv("EM_THREADS", "1")
    monkeypatch.setenv("EM_LINK_MODE", mode)
    small_sources()
    artifact = em.create_artifact("x")
    artifact.add_dir("a")
    artifact.add_dir("earlier/b")
    before = contents(artifact)
    after = before | tree("b")
    original = Path("original")
    shutil.move(".em", original)
    fresh(original)
    every = list(points(traced(lambda: artifact.add_dir("b"), f"--trace={','.join(calls)}").log))
    assert contents(artifact) == after
    for call, when in some(every, POINTS // 3):
        local = fresh(original)
        work = partial(em.Artifact.add_dir, artifact, "b")
        ended = traced(work, f"--trace={call}", f"--inject={call}:error={error}:when={when}+")
        point = (call, when, error, ended.message, ended.log)
        assert ended.signal == 0, point
        assert ended.error is None or "EmError" in ended.message, point
        whole_files(local, before, after)
        expected = before if ended.error else after
        try:
            check_after(local, expected, expected, "z")
        except Exception as failed:
            failed.add_note(f"{point}")
            raise


def test_full_disk(small_disk: Callable[[int], Path]) -> None:
    Path("small").mkdir()
    Path("small/a").write_bytes(os.urandom(1 << 20))
    Path("large").mkdir()
    for name in "bcd":
        Path("large", name).write_bytes(os.urandom(25 << 20))
    small, large = Path("small").absolute(), Path("large").absolute()
    with contextlib.chdir(small_disk(50)):
        artifact = em.create_artifact("x")
        with pytest.raises(StoreError) as caught:
            artifact.add_dir(large)
        assert caught.value.errno == errno.ENOSPC
        assert artifact.objects == []
        assert problems() == []
        artifact.add_dir(small)
        assert contents(artifact) == {"small/a": (small / "a").read_bytes()}
        _engine.gc(".em/store", 0, False)
        assert leftovers(artifact) == problems() == []


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("refused", ["first", "second", "third", "from the third on", "all but the first"])
def test_threads_that_the_system_refuses_are_done_without(refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first is that of the call, which cannot go on without. It makes the others: strace counts for each thread."""
    monkeypatch.setenv("EM_THREADS", "4")
    small_sources()
    for index in range(50):
        Path("b", str(index)).write_bytes(os.urandom(2000))
    artifact = em.create_artifact("x")
    artifact.add_dir("earlier/b")
    before = contents(artifact)
    when = {"first": "1", "second": "2", "third": "3", "from the third on": "3+", "all but the first": "1..20"}[refused]

    def work() -> None:
        if refused == "all but the first":
            # What this thread may not make is over when it comes to that of the call.
            for _ in range(20):
                with contextlib.suppress(RuntimeError):
                    threading.Thread(target=int).start()
        artifact.add_dir("b")

    calls = "clone,clone3"
    ended = traced(work, f"--trace={calls}", f"--inject={calls}:error=EAGAIN:when={when}")
    injected = [line for line in ended.log.splitlines() if "(INJECTED)" in line]
    assert len(injected) >= (22 if refused == "all but the first" else 1), ended.log
    if refused == "first":
        assert ended.error == "StoreError"
        assert "refuses a thread" in ended.message
        assert contents(artifact) == before
        artifact.add_dir("b")
    else:
        assert ended.ok, ended.message
    assert contents(artifact) == before | tree("b")
    assert problems(artifact) == problems() == leftovers(artifact) == []

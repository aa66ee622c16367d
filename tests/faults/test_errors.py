"""A system call that fails gives a typed error and changes nothing."""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from t9k import em
from t9k.em import _engine
from t9k.em.errors import StoreError

from .conftest import CALLS, contents, leftovers, points, problems, traced, tree
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
def test_error_at_every_call(error: str, calls: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_THREADS", "1")
    monkeypatch.setenv("EM_LINK_MODE", "hardlink")
    small_sources()
    artifact = em.create_artifact("x")
    artifact.add_dir("a")
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
    for call, when in every:
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
        assert problems(artifact) == [], point
        assert [problem for problem in problems() if problem["kind"] != "stray"] == [], point
        artifact = em.load_artifact(local)
        artifact.add_dir("b")
        assert contents(artifact) == before | tree("b"), point
        _engine.gc(".em/store", 0, False)
        assert leftovers(artifact) == [], point
        assert problems() == [], point
    assert failed


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

"""Verifications of what the system refuses to read, beside adds, and of what interrupted ones have left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from t9k import em
from t9k.em import _engine

from .conftest import Child, problems, traced


def stored(path: str) -> str:
    """Of the object of a file: `ab/cdef…`."""
    digest = _engine.hash_file(path)
    return f"{digest[:2]}/{digest[2:]}"


@pytest.fixture
def artifact() -> em.Artifact:
    Path("source/d").mkdir(parents=True)
    for name in ("a", "b", "d/c"):
        Path("source", name).write_text(name * 300_000)
    artifact = em.create_artifact("x")
    artifact.add_dir("source")
    return artifact


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("call", "error", "refused", "thing", "of_artifact"),
    [
        ("openat", "EACCES", "{a}", "object", False),
        ("pread64", "EIO", ".em/store/objects/{a}", "object", False),
        ("pread64", "EIO", ".em/store/objects/{a}", "object", True),
        ("pread64", "EIO", ".em/store/chunks/{a}", "table", False),
        ("openat", "EACCES", ".em/store/objects/{fan}", "other", False),
        ("openat", "EACCES", ".em/store/chunks/{fan}", "other", False),
        ("read", "EIO", "{inner}/manifest-0000000002", "manifest", False),
        ("openat", "EACCES", "{inner}", "artifact", False),
        ("openat", "EACCES", "{local}/source/d", "file", True),
    ],
)
def test_what_cannot_be_read_is_told_and_the_rest_is_verified(
    artifact: em.Artifact, call: str, error: str, refused: str, thing: str, of_artifact: bool
) -> None:
    damaged = Path(".em/store/objects", stored("source/b"))
    damaged.chmod(0o644)
    damaged.write_text("b")
    local = artifact.local if of_artifact else f".em/artifacts/{artifact.alternative_name}"
    names = {"a": stored("source/a"), "fan": stored("source/a")[:2], "local": local, "inner": f"{local}/.artifact"}
    path = refused.format(**names)

    def work() -> None:
        found = problems(artifact if of_artifact else None)
        Path("found.json").write_text(json.dumps(found))

    ended = traced(work, f"--trace={call}", f"--inject={call}:error={error}", "-P", path)
    assert ended.ok, ended.message
    assert "(INJECTED)" in ended.log
    found = [problem for problem in json.loads(Path("found.json").read_text()) if problem["file"] is None]
    unreadable = [problem for problem in found if problem["kind"] == "unreadable"]
    assert [problem["thing"] for problem in unreadable] == [thing]
    assert unreadable[0]["path"].endswith(path.removesuffix("/.artifact"))
    assert os.strerror({"EIO": 5, "EACCES": 13}[error]) in unreadable[0]["reason"]
    assert str(damaged) in {problem["path"] for problem in found if problem["kind"] == "damaged"}
    assert not Path(".em/store/trash").is_dir() or not list(Path(".em/store/trash").iterdir())


def test_an_add_in_flight_makes_no_stray_and_a_killed_one_does_until_it_is_undone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped before and while it links its files."""
    monkeypatch.setenv("EM_LINK_MODE", "copy")
    Path("more").mkdir()
    for number in range(1000):
        Path("more", f"{number:03}").write_text(str(number))
    strays: set[str] = set()
    for attempt in range(30):
        artifact = em.create_artifact("x")
        child = Child(partial(artifact.add_dir, "more"))
        child.go()
        linked = Path(artifact.local, "more", "000")
        while attempt and not linked.exists():
            time.sleep(0.0005)
        os.kill(child.pid, signal.SIGSTOP)
        assert problems() == problems(artifact) == [], attempt
        child.kill()
        child.join()
        strays |= {problem["thing"] for problem in problems(artifact) if problem["kind"] == "stray"}
        assert {problem["kind"] for problem in problems() + problems(artifact)} <= {"stray"}
        artifact = em.load_artifact(artifact.local)
        assert problems(artifact) == []
        shutil.rmtree(artifact.local)
        _engine.gc(".em/store", 0, False)
        assert problems() == []
        if strays:
            break
    assert strays == {"file"}


def test_damage_is_told_with_what_helps(artifact: em.Artifact) -> None:
    """Whatever comes upon a damaged object first."""
    size = 300_000

    def damage(name: str) -> bytes:
        path = Path(".em/store/objects", stored(f"source/{name}"))
        path.chmod(0o644)
        path.write_text("b" * (size - 1) + "!")
        return bytes.fromhex(_engine.hash_file(f"source/{name}"))

    manifest = _engine.read_manifest(artifact.local)
    calls: list[Any] = [
        lambda digest: _engine.read_object_range(".em/store", digest, 0, 1),
        lambda digest: _engine.link_entries(".em/store", "into", [("target", digest, False)]),
        lambda digest: _engine.materialize(".em/store", os.path.abspath("loaded"), manifest),
        lambda digest: _engine.PackPlan(".em/store", [(digest, [(0, digest, size)])]).build(0),
    ]
    Path("into").mkdir()
    for number, call in enumerate(calls):
        digest = damage("b")
        with pytest.raises(_engine.EngineError, match="was damaged and is now in trash/") as raised:
            call(digest)
        assert raised.value.kind == "integrity"
        assert stored("source/b") in raised.value.message
        assert "add the file that it came from again" in str(raised.value.hint)
        assert len(list(Path(".em/store/trash").iterdir())) == number + 1
        # What the hint says helps.
        artifact.add_file("source/b", "source/b")
        assert problems() == problems(artifact) == []
    assert not Path("into/target").exists()
    assert not Path("loaded").exists()

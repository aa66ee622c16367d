"""A store that format 1 wrote: every later version loads it, verifies it, adds to it and collects it."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import Any

import oracle
import pytest
from t9k import em
from t9k.em import _engine

FIXTURE = Path(__file__).parents[1] / "fixtures" / "store-v1.tar.xz"
VERSION_IDENTITY = "3bdeab1236309985827f2854c3311a09d32c6357532e95d2caf9921e2bef652c"
TEMPORARY = ".tmp-0123456789abcdef0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files with their modes, hard links and times to the nanosecond, which `tarfile` rounds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with tarfile.open(FIXTURE) as archive:
        archive.extractall(".", filter="fully_trusted")
        for member in archive:
            seconds, nanoseconds = member.pax_headers["mtime"].split(".")
            os.utime(member.name, ns=(0, int(seconds) * 10**9 + int(nanoseconds)))
    return Path(".em/store")


@pytest.fixture
def artifact(store: Path) -> em.Artifact:
    return em.load_artifact(str(next(store.parent.glob("artifacts/fixture_*"))))


def problems(artifact: em.Artifact | None = None) -> list[Any]:
    return list(_engine.verify(".em/store", artifact.local if artifact else None)["problems"])


def objects(store: Path) -> dict[str, Path]:
    return {path.parent.name + path.name: path for path in store.glob("objects/??/[!.]*")}


def jsonl() -> bytes:
    return "".join(f'{{"step": {step}, "loss": {1 / (step + 1):.6f}}}\n' for step in range(40_000)).encode()


CONTENTS = {
    "replaced": b"small\n",
    "s/größe.txt": b"small\n",
    "s/zero": b"",
    "s/run.sh": b"#!/bin/sh\n",
    "s/metrics.jsonl": jsonl(),
}


def test_fixture_is_what_the_documents_say(store: Path) -> None:
    assert Path(store, "VERSION").read_text() == "1\n"
    boots = set()
    for name, path in objects(store).items():
        stat = path.stat()
        assert oracle.digest(path.read_bytes()) == name
        assert stat.st_mode & 0o777 == 0o444
        seconds, nanoseconds = divmod(stat.st_mtime_ns, 10**9)
        sealed = {boot: oracle.seal_ns(name, seconds, boot) for boot in (bytes(16), bytes(range(16)))}
        boots |= {boot for boot, seal in sealed.items() if seal == nanoseconds}
        assert nanoseconds in sealed.values()
    assert len(boots) == 2
    chunkers = set()
    for path in store.glob("chunks/??/*"):
        table = oracle.chunk_table(path.read_bytes())
        data = objects(store)[path.parent.name + path.name].read_bytes()
        assert table.object_size == len(data)
        at = 0
        for name, length in table.chunks:
            assert oracle.digest(data[at : at + length]) == name
            at += length
        chunkers.add(table.chunker)
    assert chunkers == {1, 2}


def test_load(artifact: em.Artifact) -> None:
    assert artifact.name == "fixture"
    assert _engine.manifest_digest(artifact.local) == VERSION_IDENTITY
    entries = {entry["path"]: entry for entry in artifact.objects}
    assert set(entries) == {*CONTENTS, "s/model.safetensors", "s/empty", "reference"}
    assert entries["s/empty"]["type"] == "directory"
    assert entries["reference"]["uri"] == "s3://bucket/key"
    for path, content in CONTENTS.items():
        assert entries[path]["digest"] == oracle.digest(content)
        assert Path(artifact.local, path).read_bytes() == content
    assert os.access(Path(artifact.local, "s/run.sh"), os.X_OK)


def test_verify(artifact: em.Artifact) -> None:
    assert problems(artifact) == []
    (stray,) = problems()
    assert stray["kind"] == "stray"
    assert stray["path"].endswith(TEMPORARY)


def test_add_on_top(artifact: em.Artifact, store: Path) -> None:
    before = {name: path.stat().st_ino for name, path in objects(store).items()}
    Path("more").mkdir()
    for path, content in CONTENTS.items():
        Path("more", Path(path).name).write_bytes(content)
    Path("more/new").write_bytes(b"new")
    summary = _engine.add_dir(".em/store", artifact.local, "more", "more")
    assert summary["new_objects"] == 1
    after = {name: path.stat().st_ino for name, path in objects(store).items()}
    assert after == before | {oracle.digest(b"new"): after[oracle.digest(b"new")]}
    assert {entry["path"] for entry in artifact.objects} >= {*CONTENTS, "more/new", "more/zero"}
    # The same bytes have the same chunks as ever.
    shared = _engine.diff(".em/store", artifact.local, artifact.local)[0]
    assert shared == sum(path.stat().st_size for path in objects(store).values()) - len("unreachable")
    assert problems(artifact) == []


def test_chunks_of_the_same_bytes_are_the_same(artifact: em.Artifact, store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-store"
    for name in ("metrics.jsonl", "model.safetensors"):
        source = Path(artifact.local, "s", name)
        _engine.create_artifact(str(tmp_path / name))
        _engine.add_file(str(other), str(tmp_path / name), str(source), name)
    tables = {path.relative_to(store): path.read_bytes() for path in store.glob("chunks/??/*")}
    assert len(tables) == 2
    assert tables == {path.relative_to(other): path.read_bytes() for path in other.glob("chunks/??/*")}


def test_gc(artifact: em.Artifact, store: Path) -> None:
    live = {entry["digest"] for entry in artifact.objects if entry["type"] == "file"}
    assert _engine.gc(".em/store", 0, True)["unreachable_objects"] == 2
    assert _engine.gc(".em/store", 0, False)["deleted_objects"] == 2
    assert set(objects(store)) == live
    # The damaged object is kept for its owner to look at, the lease of a host that was not seen for an hour is not.
    assert len(list(store.glob("trash/*"))) == 1
    assert list(store.glob("leases/*")) == []
    assert problems() == problems(artifact) == []
    assert {path.name for path in store.glob("objects/??/.tmp-*")} == set()

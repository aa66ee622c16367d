"""Packs from one store to another through the engine's Python functions, with real files."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
import pytest
from t9k.em import _engine

ROW = "<32sQII"


def bf16_weights(count: int, seed: int = 0) -> bytes:
    values = numpy.random.default_rng(seed).standard_normal(count).astype("<f4")
    return (values.view("<u4") >> 16).astype("<u2").tobytes()


def split(column: bytes, width: int = 32) -> list[bytes]:
    return [column[at : at + width] for at in range(0, len(column), width)]


def numbers(store: str, digest: bytes) -> list[int]:
    return list(range(len(_engine.object_chunks(store, digest)[1]) // 4))


@dataclass
class Sender:
    """A store with one artifact of files of all kinds."""

    source: Path
    store: str
    artifact: str

    @property
    def manifest(self) -> bytes:
        return _engine.read_manifest(self.artifact)

    def objects(self) -> list[tuple[bytes, int]]:
        digests, sizes = _engine.manifest_objects(self.manifest)
        return list(zip(split(digests), struct.unpack(f"<{len(sizes) // 8}Q", sizes), strict=True))

    def plan(self, limit_bytes: int = 64 << 20) -> _engine.PackPlan:
        wanted = [(digest, numbers(self.store, digest)) for digest, _ in self.objects()]
        return _engine.PackPlan(self.store, wanted, limit_bytes)

    def packs(self, limit_bytes: int = 64 << 20) -> list[bytes]:
        plan = self.plan(limit_bytes)
        return [plan.build(index)[0] for index in range(len(plan))]


@pytest.fixture
def sender(tmp_path: Path) -> Sender:
    source = tmp_path / "source"
    (source / "deep" / "down").mkdir(parents=True)
    (source / "nothing" / "here").mkdir(parents=True)
    weights = bf16_weights(3_000_000)
    (source / "weights.bin").write_bytes(weights)
    (source / "deep" / "shifted.bin").write_bytes(b"front" + weights[:2_000_000])
    (source / "deep" / "down" / "same.bin").write_bytes(weights)
    (source / "zeros.bin").write_bytes(bytes(1_000_000))
    (source / "text").write_text("one line of text\n" * 100)
    (source / "empty").touch()
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    store, artifact = str(tmp_path / "from" / "store"), str(tmp_path / "from" / "artifact")
    _engine.create_artifact(artifact)
    _engine.add_dir(store, artifact, str(source), "")
    return Sender(source, store, artifact)


def records(pack: bytes) -> memoryview:
    """The run of whole records between header and footer."""
    rows = list(struct.iter_unpack(ROW, _engine.verify_pack(pack)[1]))
    return memoryview(pack)[rows[0][1] : rows[-1][1] + rows[-1][2]]


def assemble(sender: Sender, store: str) -> None:
    with _engine.Assembly(store) as assembly:
        for digest, size in sender.objects():
            assembly.add(digest, size, _engine.read_chunk_table(sender.store, digest))
        for pack in sender.packs():
            assembly.take_records(records(pack))
        assert assembly.wanted() == (b"", b"")


def tree(root: Path) -> dict[str, tuple[bytes, bool] | None]:
    """Path to content and executable bit of each file, and the directories."""

    def walk() -> Iterator[tuple[str, tuple[bytes, bool] | None]]:
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if not name.startswith(".artifact"):
                yield name, None if path.is_dir() else (path.read_bytes(), os.access(path, os.X_OK))

    return dict(walk())


def test_artifact_through_packs_to_another_store_is_the_same(sender: Sender, tmp_path: Path) -> None:
    store, target = str(tmp_path / "to" / "store"), tmp_path / "to" / "artifacts" / "copy"
    seen: set[bytes] = set()
    with _engine.Lease(sender.store) as lease, _engine.Assembly(store) as assembly:
        for digest, size in sender.objects():
            table = _engine.read_chunk_table(sender.store, digest)
            assert (table is not None) == (size > 256 << 10)
            assert assembly.add(digest, size, table) is False
        missing, lengths = assembly.wanted()
        plan = sender.plan(limit_bytes=4 << 20)
        assert len(plan) >= 2
        for index in range(len(plan)):
            pack, chunks, raw_bytes = plan.build(index)
            assert len(pack) <= 4 << 20
            assert plan.build(index)[0] == pack
            lease.renew()
            name, rows = _engine.verify_pack(pack, threads=2)
            assert name == _engine.digest(pack)
            unpacked = list(struct.iter_unpack(ROW, rows))
            assert b"".join(row[0] for row in unpacked) == chunks
            assert sum(row[3] for row in unpacked) == raw_bytes
            assembly.take_records(records(pack))
            seen.update(split(chunks))
        assert seen == set(split(missing))
        assert sum(struct.unpack(f"<{len(lengths) // 4}I", lengths)) < sum(size for _, size in sender.objects())
        assert assembly.wanted() == (b"", b"")
        # An empty object waits for no chunk.
        assert sorted(split(assembly.completed())) == sorted(digest for digest, _ in sender.objects())
        assert assembly.completed() == b""
        _engine.materialize(store, str(target), sender.manifest, b'{"name": "copy"}')
    assert tree(target) == tree(sender.source)
    assert _engine.read_manifest(str(target)) == sender.manifest
    assert sorted(path.name for path in (target / ".artifact").iterdir()) == ["manifest-0000000001", "metadata.json"]
    assert _engine.verify(store, str(target))["problems"] == []
    assert _engine.gc(store, 0, False)["deleted_objects"] == 0
    for digest, _ in sender.objects():
        assert _engine.read_chunk_table(store, digest) == _engine.read_chunk_table(sender.store, digest)


def test_packs_built_and_taken_by_threads_give_every_object(sender: Sender, tmp_path: Path) -> None:
    store, plan = str(tmp_path / "to"), sender.plan(limit_bytes=3 << 20)
    with _engine.Assembly(store) as assembly:
        for digest, size in sender.objects():
            assembly.add(digest, size, _engine.read_chunk_table(sender.store, digest))
        take = [
            threading.Thread(target=lambda index=index: assembly.take_records(records(plan.build(index)[0])))
            for index in range(len(plan))
        ]
        for thread in take:
            thread.start()
        for thread in take:
            thread.join()
        assert len(assembly.completed()) == 32 * len(sender.objects())
    assert all(_engine.usable(store, digest, size) for digest, size in sender.objects())

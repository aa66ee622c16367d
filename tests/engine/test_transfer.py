"""Packs from one store to another through the engine's Python functions, with real files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import oracle
import pytest
import xxhash
from chunks import pieces_of, table_of
from t9k.em import _engine

if TYPE_CHECKING:
    from typing_extensions import Buffer

ROW = "<32sQII"
SAFETENSORS = {"bf16": "BF16", "<f2": "F16", "<f4": "F32", "<f8": "F64", "<i2": "I16", "<u2": "U16"} | {
    "<i4": "I32",
    "<u4": "U32",
    "<i8": "I64",
    "<u8": "U64",
}


def bf16_weights(count: int, seed: int = 0) -> bytes:
    values = numpy.random.default_rng(seed).standard_normal(count).astype("<f4")
    return (values.view("<u4") >> 16).astype("<u2").tobytes()


def split(column: bytes, width: int = 32) -> list[bytes]:
    return [column[at : at + width] for at in range(0, len(column), width)]


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
        wanted = [(digest, pieces_of(self.store, digest)) for digest, _ in self.objects()]
        return _engine.PackPlan(self.store, wanted, limit_bytes)

    def packs(self, limit_bytes: int = 64 << 20) -> list[bytes]:
        plan = self.plan(limit_bytes)
        return [bytes(plan.build(index)[0]) for index in range(len(plan))]


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
            assembly.add(digest, size, table_of(sender.store, digest))
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
            table = table_of(sender.store, digest)
            assert (table is not None) == (size > 256 << 10)
            assert assembly.add(digest, size, table) is False
        missing, lengths = assembly.wanted()
        plan = sender.plan(limit_bytes=4 << 20)
        assert len(plan) >= 2
        for index in range(len(plan)):
            pack, chunks, raw_bytes = plan.build(index)
            pack = bytes(pack)
            assert len(pack) <= 4 << 20
            assert plan.build(index)[0] == pack
            lease.renew()
            name, rows = _engine.verify_pack(pack, threads=2)
            assert name == _engine.pack_digest(pack)
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
    assert list(_engine.verify(store, str(target))["problems"]) == []
    assert _engine.gc(store, 0, False)["deleted_objects"] == 0
    for digest, _ in sender.objects():
        assert table_of(store, digest) == table_of(sender.store, digest)


def test_packs_built_and_taken_by_threads_give_every_object(sender: Sender, tmp_path: Path) -> None:
    store, plan = str(tmp_path / "to"), sender.plan(limit_bytes=3 << 20)
    with _engine.Assembly(store) as assembly:
        for digest, size in sender.objects():
            assembly.add(digest, size, table_of(sender.store, digest))
        take = [
            threading.Thread(target=lambda index=index: assembly.take_records(records(bytes(plan.build(index)[0]))))
            for index in range(len(plan))
        ]
        for thread in take:
            thread.start()
        for thread in take:
            thread.join()
        assert len(assembly.completed()) == 32 * len(sender.objects())
    assert all(_engine.usable(store, digest, size) for digest, size in sender.objects())


def values(dtype: str, count: int = 150_000) -> numpy.ndarray:
    """Numbers as they are in checkpoints: small floats, and integers that are far from filling their type."""
    generator = numpy.random.default_rng(1)
    if dtype == "bf16":
        return numpy.frombuffer(bf16_weights(count, seed=1), "<u2")
    if numpy.dtype(dtype).kind == "f":
        return (0.02 * generator.standard_normal(count)).astype(dtype)
    return generator.integers(0, 2 ** (numpy.dtype(dtype).itemsize * 3), count).astype(dtype)


@pytest.mark.parametrize("dtype", ["bf16", "<f2", "<f4", "<f8", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8"])
def test_numbers_of_every_width_are_packed_as_planes_that_the_oracle_reads(dtype: str, tmp_path: Path) -> None:
    store, artifact, array = str(tmp_path / "store"), str(tmp_path / "artifact"), values(dtype)
    header = {"w": {"dtype": SAFETENSORS[dtype], "shape": [len(array)], "data_offsets": [0, array.nbytes]}}
    text = json.dumps(header).encode()
    (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + array.tobytes())
    _engine.create_artifact(artifact)
    _engine.add_file(store, artifact, str(tmp_path / "file"), "file")
    digests, _ = _engine.manifest_objects(_engine.read_manifest(artifact))
    plan = _engine.PackPlan(store, [(digests, pieces_of(store, digests))])
    built, _, raw_bytes = plan.build(0)
    pack = bytes(built)
    read = oracle.pack(pack)
    assert b"".join(record.chunk for record in read) == (tmp_path / "file").read_bytes()
    # The header is a chunk of its own and too short to save anything.
    assert [record.codec for record in read if len(record.chunk) > 1000] == [2] * len(read[1:])
    assert len(pack) < 0.92 * raw_bytes


def test_oracle_reads_the_fixture_and_the_engine_agrees() -> None:
    data = (Path(__file__).parents[1] / "fixtures" / "pack-v1.bin").read_bytes()
    read = oracle.pack(data)
    assert {record.codec for record in read} == {0, 1, 2}
    name, packed = _engine.verify_pack(data)
    assert name == _engine.pack_digest(data) == bytes.fromhex(oracle.pack_digest(data))
    rows = list(struct.iter_unpack(ROW, packed))
    assert [(bytes.fromhex(r.digest), r.offset, len(r.chunk)) for r in read] == [
        (row[0], row[1], row[3]) for row in rows
    ]
    for record in read:
        assert _engine.decode_record(data, record.offset) == (bytes.fromhex(record.digest), record.chunk)
    run = data[rows[0][1] : rows[-1][1] + rows[-1][2]]
    shifted = [(row[0], row[1] - rows[0][1], *row[2:]) for row in rows]
    assert list(struct.iter_unpack(ROW, _engine.list_records(run))) == shifted


def test_object_hashed_from_records_of_several_packs_is_the_object(sender: Sender) -> None:
    places: dict[bytes, tuple[bytes, int]] = {}
    for pack in sender.packs(limit_bytes=3 << 20):
        for name, offset, *_ in struct.iter_unpack(ROW, _engine.verify_pack(pack)[1]):
            places[name] = pack, offset
    for digest, size in sender.objects():
        hasher = _engine.ObjectHasher()
        for _, chunk, _ in pieces_of(sender.store, digest):
            pack, offset = places[chunk]
            hasher.push_records(pack, [offset])
        assert (hasher.size, hasher.digest()) == (size, digest)


def test_damaged_pack_is_refused_wherever_the_bit_is_flipped(sender: Sender) -> None:
    pack = bytearray(sender.packs(limit_bytes=3 << 20)[0])
    for at in [*range(0, 100), *range(100, len(pack), 49_999), *range(len(pack) - 100, len(pack))]:
        pack[at] ^= 4
        with pytest.raises(_engine.EngineError) as caught:
            _engine.verify_pack(pack, threads=2)
        assert caught.value.kind == "integrity"
        pack[at] ^= 4
    _engine.verify_pack(pack)


def test_resealed_pack_with_a_wrong_chunk_is_refused_by_its_digest(sender: Sender) -> None:
    pack = bytearray(sender.packs()[0])
    row = next(row for row in struct.iter_unpack(ROW, _engine.verify_pack(pack)[1]) if row[2] > 1000)
    pack[row[1] + 900] ^= 1
    pack[-8:] = xxhash.xxh3_64_intdigest(pack[:-8]).to_bytes(8, "little")
    with pytest.raises(_engine.EngineError, match=row[0].hex()) as caught:
        _engine.verify_pack(pack)
    assert caught.value.kind == "integrity"


def test_flipped_bit_in_a_run_leaves_its_chunk_wanted(sender: Sender, tmp_path: Path) -> None:
    with _engine.Assembly(str(tmp_path / "to")) as assembly:
        for digest, size in sender.objects():
            assembly.add(digest, size, table_of(sender.store, digest))
        wanted = len(assembly.wanted()[0])
        for pack in sender.packs():
            run = bytearray(records(pack))
            run[-1] ^= 1
            with pytest.raises(_engine.EngineError) as caught:
                assembly.take_records(run)
            assert caught.value.kind == "integrity"
            assert 0 < len(assembly.wanted()[0]) < wanted
            assembly.take_records(records(pack))
        assert assembly.wanted() == (b"", b"")


def test_damaged_object_is_named_when_it_is_packed_and_moved_away(sender: Sender) -> None:
    digest, size = max(sender.objects(), key=lambda entry: entry[1])
    path = Path(sender.store, "objects", digest.hex()[:2], digest.hex()[2:])
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\0wrong\0")
    plan = sender.plan()
    assert len(plan) == 1
    with pytest.raises(_engine.EngineError, match=digest.hex()[2:]) as caught:
        plan.build(0)
    assert caught.value.kind == "integrity"
    assert not _engine.usable(sender.store, digest, size)
    assert list(Path(sender.store, "trash").iterdir())


def test_chunks_are_taken_from_objects_that_the_store_has(sender: Sender, tmp_path: Path) -> None:
    sizes = dict(sender.objects())
    assert len(set(sizes.values())) == len(sizes)
    by_size = {size: digest for digest, size in sizes.items()}
    weights, shifted = by_size[6_000_000], by_size[2_000_005]
    store = str(tmp_path / "to")
    _engine.create_artifact(str(tmp_path / "artifact"))
    _engine.add_file(store, str(tmp_path / "artifact"), str(sender.source / "weights.bin"), "w")
    with _engine.Assembly(store) as assembly:
        assert assembly.add(weights, 6_000_000) is True
        assert assembly.add(shifted, 2_000_005, table_of(sender.store, shifted)) is False
        before = len(assembly.wanted()[0])
        taken = assembly.take_from(weights)
        assert taken > 1_000_000
        assert len(assembly.wanted()[0]) < before / 2


def test_taking_chunks_ends_at_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a file of holes every chunk is the same: the first completes it, and then all of it is hashed.
    sizes = {"large": 4 << 30, "small": 4 << 20}
    for name, size in sizes.items():
        with Path(tmp_path, name).open("wb") as file:
            file.truncate(size)
    artifact, sender, store = (str(tmp_path / name) for name in ("artifact", "from", "to"))
    _engine.create_artifact(artifact)
    _engine.add_file(sender, artifact, str(tmp_path / "large"), "large")
    _engine.add_file(store, artifact, str(tmp_path / "small"), "small")
    digests, _ = _engine.manifest_objects(_engine.read_manifest(artifact))
    large, small = split(digests)
    if not _engine.usable(sender, large, sizes["large"]):
        large, small = small, large
    monkeypatch.setenv("EM_THREADS", "1")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt(threads: int = len(os.listdir("/proc/self/task")) + 1) -> None:
        while len(os.listdir("/proc/self/task")) <= threads and not returned.is_set():
            pass
        os.kill(os.getpid(), signal.SIGINT)

    def take_interrupted() -> None:
        thread = threading.Thread(target=interrupt)
        thread.start()
        try:
            assembly.take_from(small)
        finally:
            returned.set()
            thread.join()
            signal.signal(signal.SIGINT, before)

    returned = threading.Event()
    with _engine.Assembly(store) as assembly:
        assert assembly.add(large, sizes["large"], table_of(sender, large)) is False
        assert len(split(assembly.wanted()[0])) == 1
        with pytest.raises(KeyboardInterrupt):
            take_interrupted()
        assert assembly.completed() == b""
    assert not _engine.usable(store, large, sizes["large"])


def test_hostile_bytes_are_typed_errors(sender: Sender, tmp_path: Path) -> None:
    table = table_of(sender.store, max(sender.objects(), key=lambda entry: entry[1])[0])
    assert table is not None
    size, digests, lengths = _engine.parse_chunk_table(table)
    assert size == sum(struct.unpack(f"<{len(lengths) // 4}I", lengths))
    assert len(digests) == 8 * len(lengths)
    assembly = _engine.Assembly(str(tmp_path / "to"))
    for call in [
        lambda: _engine.parse_manifest(b""),
        lambda: _engine.parse_manifest(sender.manifest[:-1]),
        lambda: _engine.manifest_objects(b"EMMANIF\0" * 100),
        lambda: _engine.parse_chunk_table(table[:-1]),
        lambda: _engine.parse_chunk_table(table.replace(b"EMCHUNK", b"EMCHUNX")),
        lambda: _engine.verify_pack(b"\0" * 1000),
        lambda: _engine.verify_pack(b"", threads=1 << 40),
        lambda: _engine.pack_digest(b""),
        lambda: _engine.pack_digest(b"\1" * 50),
        lambda: _engine.list_records(b"\1" * 50),
        lambda: _engine.decode_record(b"", 0),
        lambda: _engine.decode_record(b"\0" * 41, 2**64 - 1),
        lambda: _engine.ObjectHasher().push_records(b"", [0]),
        lambda: assembly.add(b"x" * 32, 1 << 60),
        lambda: assembly.add(b"x" * 32, 1 << 60, table),
        lambda: assembly.add(b"x" * 32, 0),
        lambda: assembly.take_records(b"\7" * 100),
    ]:
        with pytest.raises(_engine.EngineError) as caught:
            call()
        assert caught.value.kind == "integrity"
    for call in [
        lambda: _engine.usable(sender.store, b"short", 1),
        lambda: _engine.PackPlan(sender.store, [], 1000),
        lambda: _engine.PackPlan(sender.store, [(sender.objects()[0][0], [(0, b"x" * 32, 1 << 30)])]),
        lambda: sender.plan().build(99),
    ]:
        with pytest.raises(_engine.EngineError) as caught:
            call()
        assert caught.value.kind == "invalid_input"
    for overflow in [-1, 2**64]:
        with pytest.raises(OverflowError):
            _engine.decode_record(b"", overflow)
    with pytest.raises(BufferError):
        _engine.digest(memoryview(b"abcd")[::2])
    with pytest.raises(TypeError):
        _engine.digest("text")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda b: numpy.frombuffer(b, "<u2")])
def test_any_buffer_is_read(kind: Callable[[bytes], Buffer]) -> None:
    assert _engine.digest(kind(b"1234")) == bytes.fromhex(oracle.digest(b"1234"))
    assert _engine.digest(kind(b"")) == bytes.fromhex(oracle.digest(b""))


def test_bytearray_cannot_be_resized_while_it_is_read(sender: Sender) -> None:
    pack = bytearray(sender.packs()[0])
    started, refused = threading.Event(), []

    def shrink() -> None:
        started.set()
        while not done.is_set():
            try:
                pack.append(0)
                pack.pop()
            except BufferError as error:
                refused.append(error)

    done, thread = threading.Event(), threading.Thread(target=shrink)
    thread.start()
    started.wait()
    try:
        while not refused:
            _engine.digest(pack)
    finally:
        done.set()
        thread.join()


def test_closed_assembly_and_released_lease_say_so(tmp_path: Path) -> None:
    store = str(tmp_path / "store")
    lease = _engine.Lease(store)
    assert lease.is_held()
    assert len(list(Path(store, "leases").iterdir())) == 1
    with lease as entered:
        assert entered is lease
        lease.renew()
    assert not lease.is_held()
    lease.release()
    with pytest.raises(_engine.EngineError, match="released"):
        lease.renew()
    with _engine.Assembly(store) as assembly:
        assembly.renew()
        assert len(list(Path(store, "leases").iterdir())) == 1
    assembly.close()
    with pytest.raises(_engine.EngineError, match="closed"):
        assembly.wanted()
    assert list(Path(store, "leases").iterdir()) == []


def test_lease_keeps_gc_from_what_no_manifest_names(sender: Sender) -> None:
    _engine.gc(sender.store, 0, False)
    digest, size = sender.objects()[0]
    shutil.rmtree(sender.artifact)
    with _engine.Lease(sender.store):
        _engine.gc(sender.store, 0, False)
        assert _engine.usable(sender.store, digest, size)
    _engine.gc(sender.store, 0, False)
    assert not _engine.usable(sender.store, digest, size)


def test_materialize_refuses_other_content_and_damaged_manifests(sender: Sender, tmp_path: Path) -> None:
    store, target = str(tmp_path / "to"), tmp_path / "artifact"
    with pytest.raises(_engine.EngineError, match="lacks object") as caught:
        _engine.materialize(store, str(target), sender.manifest)
    assert caught.value.kind == "not_found"
    assemble(sender, store)
    with pytest.raises(_engine.EngineError) as caught:
        _engine.materialize(store, str(target), sender.manifest[:-1])
    assert caught.value.kind == "integrity"
    assert not target.exists()
    for _ in range(2):
        _engine.materialize(store, str(target), sender.manifest, progress=lambda *counts: None)
    _engine.add_reference(str(target), "more", "https://example.org")
    with pytest.raises(_engine.EngineError, match="another content") as caught:
        _engine.materialize(store, str(target), sender.manifest)
    assert caught.value.kind == "conflict"


def test_entries_are_linked_below_a_directory(sender: Sender, tmp_path: Path) -> None:
    (one, size), (other, _) = sender.objects()[:2]
    path = tmp_path / "one"
    path.write_text("before")
    _engine.link_entries(sender.store, str(tmp_path), [("one", one, False), ("deep/er/one", other, False)])
    assert path.read_bytes() == _engine.read_object_range(sender.store, one, 0, size)
    assert (tmp_path / "deep/er/one").read_bytes() == _engine.read_object_range(sender.store, other, 0, 1 << 30)
    _engine.link_entries(sender.store, str(tmp_path), [("one", one, True)])
    assert os.access(path, os.X_OK)
    (tmp_path / "out").symlink_to("/")
    for name in ("../one", "out/one", "/one"):
        with pytest.raises(_engine.EngineError) as caught:
            _engine.link_entries(sender.store, str(tmp_path), [(name, one, False)])
        assert caught.value.kind == "invalid_input"


def test_open_store_is_taken_in_place_of_its_path(sender: Sender, tmp_path: Path) -> None:
    store, to = _engine.Store(sender.store), _engine.Store(str(tmp_path / "to"))
    assert store.path == sender.store
    with _engine.Lease(store), _engine.Assembly(to) as assembly:
        for digest, size in sender.objects():
            assert _engine.usable(store, digest, size)
            assert not _engine.usable(to, digest, size)
            assembly.add(digest, size, table_of(store, digest))
            assert pieces_of(store, digest) == pieces_of(sender.store, digest)
        plan = _engine.PackPlan(store, [(digest, pieces_of(sender.store, digest)) for digest, _ in sender.objects()])
        for index in range(len(plan)):
            assembly.take_records(records(bytes(plan.build(index)[0])))
        _engine.materialize(to, str(tmp_path / "artifact"), sender.manifest)
    digest, size = sender.objects()[0]
    _engine.link_entries(to, str(tmp_path), [("deep/two", digest, False)])
    assert (tmp_path / "deep" / "two").read_bytes() == _engine.read_object_range(to, digest, 0, size)
    with pytest.raises(TypeError):
        _engine.usable(5, digest, size)  # type: ignore[arg-type]


def test_references_keep_what_is_known_of_them(sender: Sender, tmp_path: Path) -> None:
    name = _engine.digest(b"far away")
    _engine.add_reference(sender.artifact, "far/all", "https://example.org/a", 8, 'W/"tag"', name)
    _engine.add_reference(sender.artifact, "far/none", "s3://bucket/key")
    assemble(sender, str(tmp_path / "to"))
    target = str(tmp_path / "artifact")
    _engine.materialize(str(tmp_path / "to"), target, sender.manifest)
    assert _engine.manifest_references(_engine.read_manifest(target)) == [
        ("far/all", "https://example.org/a", 8, 'W/"tag"', name),
        ("far/none", "s3://bucket/key", None, None, None),
    ]
    assert not (Path(target) / "far").exists()
    for known in [{"etag": "x" * 9000}, {"digest": b"short"}]:
        with pytest.raises(_engine.EngineError) as caught:
            _engine.add_reference(sender.artifact, "more", "s3://bucket/key", **known)
        assert caught.value.kind == "invalid_input"

"""Every file of a real store, read by an independent implementation."""

import os
from pathlib import Path

import numpy as np
import oracle
import pytest
from safetensors.numpy import save_file
from t9k import em
from t9k.em import _engine


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> em.Artifact:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = Path("source")
    (source / "empty").mkdir(parents=True)
    (source / "größe.txt").write_text("small")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "noise.dat").write_bytes(os.urandom((5 << 20) + 3))
    save_file({f"w{i}": np.full((300, 1000), i, np.float32) for i in range(4)}, source / "model.safetensors")
    created = em.create_artifact("x")
    created.add_dir("source", "s")
    created.add_reference("s3://bucket/key", "ref")
    return created


def test_manifest_names_what_was_added(artifact: em.Artifact) -> None:
    (path,) = Path(artifact.local, ".artifact").glob("manifest-*")
    data = path.read_bytes()
    assert _engine.manifest_digest(artifact.local) == oracle.digest(data)
    entries = oracle.manifest(data)
    assert entries["ref"] == {"tag": 3, "uri": "s3://bucket/key"}
    assert entries["s/empty"] == {"tag": 2}
    for name, tag in {"größe.txt": 0, "run.sh": 1, "noise.dat": 0, "model.safetensors": 0}.items():
        content = Path("source", name).read_bytes()
        expected = {"tag": tag, "size": len(content), "digest": oracle.digest(content)}
        assert entries[f"s/{name}"] == expected
    assert len(entries) == 6


def test_objects_are_named_sealed_and_read_only(artifact: em.Artifact) -> None:
    objects = [path for path in Path(".em/store/objects").rglob("*") if path.is_file()]
    assert len(objects) == 4
    for path in objects:
        name = path.parent.name + path.name
        stat = path.stat()
        assert oracle.digest(path.read_bytes()) == name
        assert stat.st_mode & 0o777 == 0o444
        seconds, nanoseconds = divmod(stat.st_mtime_ns, 10**9)
        assert nanoseconds == oracle.seal_ns(name, seconds, oracle.boot_id())


def test_chunk_tables_cover_the_large_objects(artifact: em.Artifact) -> None:
    tables = [path for path in Path(".em/store/chunks").rglob("*") if path.is_file()]
    assert len(tables) == 2
    for path in tables:
        table = oracle.chunk_table(path.read_bytes())
        data = Path(".em/store/objects", path.parent.name, path.name).read_bytes()
        assert table.object_size == len(data)
        at = 0
        for name, length in table.chunks:
            assert oracle.digest(data[at : at + length]) == name
            at += length
        assert at == len(data)
        if data[8:9] == b"{":
            header = 8 + int.from_bytes(data[:8], "little")
            lengths = [length for _, length in table.chunks]
            assert table.chunker == 2
            assert lengths == [header, *([1 << 20, 1_200_000 - (1 << 20)] * 4)]
        else:
            assert table.chunker == 1
            assert all(16 << 10 <= length <= 256 << 10 for _, length in table.chunks[:-1])


def hints(tmp_path: Path) -> dict[bytes, tuple[int, str, int]]:
    rows = stat_cache_rows(tmp_path)
    return {key: (row.size, row.digest, row.flags) for (kind, key), row in rows.items() if kind == "hints"}


def stat_cache_rows(tmp_path: Path) -> dict[tuple[str, bytes], oracle.CacheRow]:
    (cache,) = Path(tmp_path, "cache/em").glob("stat-*")
    rows = {}
    for path in cache.glob("*/*"):
        found = oracle.cache_shard(path.read_bytes())
        assert {oracle.shard_of(key) for key in found} == {path.name}
        rows |= {(path.parent.name, key): row for key, row in found.items()}
    return rows


def test_stat_cache_has_a_row_of_a_file_that_is_old_enough(artifact: em.Artifact, tmp_path: Path) -> None:
    old, young = Path(os.__file__), Path("young")
    young.write_text("from the future")
    os.utime(young, (1 << 32, 1 << 32))
    artifact.add_file(old, "old")
    artifact.add_file(young)
    rows = stat_cache_rows(tmp_path)
    assert ("files", oracle.file_key(young.stat())) not in rows
    stat = old.stat()
    row = rows["files", oracle.file_key(stat)]
    assert (row.size, row.mtime_ns, row.ctime_ns) == (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    assert (row.digest, row.flags) == (oracle.digest(old.read_bytes()), 0)


def test_stat_cache_has_a_hint_of_every_large_source(artifact: em.Artifact, tmp_path: Path) -> None:
    data = [path.read_bytes() for path in Path("source").iterdir() if path.stat().st_size > 1 << 20]
    rows = {oracle.sketch_key(large): (len(large), oracle.digest(large), 0) for large in data}
    assert len(rows) == 2
    assert hints(tmp_path) == rows
    alike = bytearray(Path("source/noise.dat").read_bytes())
    alike[100_000] ^= 1
    Path("alike").write_bytes(alike)
    artifact.add_file("alike")
    rows[oracle.sketch_key(alike)] = (len(alike), oracle.digest(alike), 1)
    assert hints(tmp_path) == rows


def test_root_and_lease_of_an_artifact_elsewhere(tmp_path: Path, artifact: em.Artifact) -> None:
    elsewhere = tmp_path / "elsewhere" / "x"
    _engine.create_artifact(str(elsewhere))
    (tmp_path / "link").symlink_to(elsewhere)
    with Path("sparse").open("wb") as file:
        file.truncate(8 << 30)
    seen = []

    def progress(*_: int) -> None:
        seen.extend(path.read_text() for path in Path(".em/store/leases").iterdir())
        raise InterruptedError

    with pytest.raises(InterruptedError):
        _engine.add_file(".em/store", str(tmp_path / "link"), "sparse", "sparse", progress)
    assert seen == [oracle.owner(os.getpid())]
    (root,) = Path(".em/store/roots").iterdir()
    assert root.read_text() == str(elsewhere.resolve())
    assert root.name == oracle.digest(root.read_bytes())
    assert list(Path(".em/store/leases").iterdir()) == []


FIXTURES = Path(__file__).parents[1] / "fixtures"


def test_manifest_fixture_has_every_form_of_entry() -> None:
    def name(text: str) -> str:
        return oracle.digest(text.encode())

    assert oracle.manifest((FIXTURES / "manifest-v1.bin").read_bytes()) == {
        "a/empty": {"tag": 2},
        "a/größe.txt": {"tag": 0, "size": 1 << 40, "digest": name("a/größe.txt")},
        "a/run.sh": {"tag": 1, "size": 3, "digest": name("a/run.sh")},
        "refs/bare": {"tag": 3, "uri": "s3://bucket/refs/bare"},
        "refs/full": {"tag": 3, "uri": "s3://bucket/refs/full", "size": 7, "etag": '"etag"', "digest": name("full")},
        "refs/size": {"tag": 3, "uri": "s3://bucket/refs/size", "size": 0},
    }


def test_chunk_table_fixture_has_every_field() -> None:
    lengths = [88, 1 << 20, 2 << 20, 1]
    chunks = [(oracle.digest(index.to_bytes(8, "little")), length) for index, length in enumerate(lengths)]
    table = oracle.chunk_table((FIXTURES / "chunk-table-v1.bin").read_bytes())
    assert table == oracle.ChunkTable(2, sum(lengths), chunks)

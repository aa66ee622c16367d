"""Every file of a real store, read by an independent implementation."""

import os
import shutil
import struct
import subprocess
import sys
import time
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
    assert (root.name, root.read_text()) == oracle.root(elsewhere)
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


def test_stat_cache_fixtures_have_a_row_of_each_kind() -> None:
    """The Rust tests look the same rows up; version 1 counts as empty there."""
    files = oracle.cache_shard((FIXTURES / "stat-cache-v2.bin").read_bytes())
    written = 1_700_000_000 * 10**9
    row = oracle.CacheRow(100, written, written, oracle.digest((1).to_bytes(8, "little")), 0, 19675)
    assert files == {struct.pack("<QQ", 7, 1): row}
    hints = oracle.cache_shard((FIXTURES / "stat-cache-hints-v2.bin").read_bytes())
    for step, flags in ((1, 0), (212, 1)):
        data = bytes(index * step % 251 for index in range(251)) * 12534
        row = oracle.CacheRow(len(data), 0, 0, oracle.digest(data), flags, 19675)
        assert hints.pop(oracle.sketch_key(data)) == row
    assert hints == {}


INTENT = (FIXTURES / "intent-v1.bin").read_bytes()


def test_intent_fixture_has_every_form_of_path() -> None:
    assert oracle.intent(INTENT)[1] == ["/made", "/made/größe", "+made/größe/file", "+new", "=replaced"]


@pytest.mark.parametrize("name", ["intent-0", "undo-0"])
def test_intent_of_one_who_is_gone_is_undone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EM_LINK_MODE", "hardlink")
    Path("old").write_text("old")
    Path("other").write_text("other")
    artifact, beside = em.create_artifact("a"), em.create_artifact("b")
    artifact.add_file("old", "replaced")
    beside.add_file("other")
    # What such an add has put there before it died.
    local, added = Path(artifact.local), Path(beside.local, "other")
    Path(local, "made/größe").mkdir(parents=True)
    Path(local, "replaced").unlink()
    for path in ("made/größe/file", "new", "replaced"):
        os.link(added, local / path)
    intent = Path(local, ".artifact", name)
    intent.write_bytes(INTENT)
    if name.startswith("intent"):
        em.load_artifact(artifact.local)
        assert intent.exists(), "it may live on its host for an hour"
        assert Path(local, "new").exists()
        os.utime(intent, (0, 0))
    em.load_artifact(artifact.local)
    assert {path.name for path in local.iterdir()} == {".artifact", "replaced"}
    assert Path(local, "replaced").read_text() == "old"
    assert added.read_text() == "other"
    assert not intent.exists()


@pytest.mark.usefixtures("strace")
def test_intent_of_an_add_names_its_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("source/größe").mkdir(parents=True)
    Path("source/größe/file").write_text("new")
    Path("source/new").write_text("new")
    Path("source/replaced").write_text("old")
    _engine.create_artifact("artifact")
    _engine.add_file("store", "artifact", "source/replaced", "made/replaced")
    _engine.add_file("store", "artifact", "source/replaced", "replaced")
    # Where its first object would be linked.
    script = "import os; from t9k.em import _engine; print(os.getpid(), flush=True); "
    script += "_engine.add_dir('store', 'artifact', 'source', 'made')"
    trace = ["strace", "-f", "-qq", "-o", "trace", "--trace=linkat", "--inject=linkat:signal=KILL:when=1"]
    environment = os.environ | {"EM_LINK_MODE": "hardlink"}
    run = subprocess.run([*trace, sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert run.returncode != 0
    (intent,) = Path("artifact/.artifact").glob("intent-*")
    who, items = oracle.intent(intent.read_bytes())
    assert items == ["/made/größe", "+made/größe/file", "+made/new", "=made/replaced"]
    assert who.split(" ")[:4] == [*oracle.owner(os.getpid()).split(" ")[:3], run.stdout.strip()]


def test_lease_of_another_host_counts_for_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("file").write_text("file")
    artifact = em.create_artifact("a")
    artifact.add_file("file")
    shutil.rmtree(artifact.local)
    lease = Path(".em/store/leases/0123456789abcdef0123456789abcdef")
    lease.write_text(oracle.intent(INTENT)[0])
    assert _engine.gc(".em/store", 0, False)["deleted_objects"] == 0
    os.utime(lease, (time.time() - 3700,) * 2)
    assert _engine.gc(".em/store", 0, False)["deleted_objects"] == 1
    assert not lease.exists()

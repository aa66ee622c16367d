"""What hostile input makes the engine hold, in a process of its own."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from t9k import em
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak()
em.create_artifact("x").add_dir("source")
print(peak() - before)
"""
MIB = 1 << 20


@pytest.fixture(autouse=True)
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("source").mkdir()
    return Path("source")


def peak_mib() -> float:
    environment = os.environ | {"EM_THREADS": "8", "EM_CAPTURE": "0"}
    run = subprocess.run([sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True, env=environment)
    return int(run.stdout) / 1024


def test_indexes_of_many_files_at_once(source: Path) -> None:
    """Sparse files that claim the longest index there may be."""
    for number in range(8):
        with Path(source, str(number)).open("wb") as file:
            file.write(struct.pack("<Q", 32 * MIB) + b"{")
            file.truncate(32 * MIB + 4096 + number)
    assert peak_mib() < 64


def test_index_of_long_names(source: Path) -> None:
    count = 32 * MIB // 310
    tensors = {f"{n:0240}": {"dtype": "U8", "shape": [1], "data_offsets": [n, n + 1]} for n in range(count)}
    header = json.dumps(tensors, separators=(",", ":")).encode()
    assert 30 * MIB < len(header) < 32 * MIB
    for number in range(2):
        head = header + b" " * number
        Path(source, str(number)).write_bytes(struct.pack("<Q", len(head)) + head + bytes(count))
    assert peak_mib() < 128


SPARSE_SCRIPT = """
from t9k import em
from t9k.em import _engine
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
def progress(_, done_bytes, *__):
    if done_bytes:
        raise InterruptedError
artifact = em.create_artifact("x").local
before = peak()
for call in (
    lambda: _engine.add_dir(".em/store", artifact, "source", "", progress),
    lambda: _engine.hash_file("source/sparse", progress),
):
    try:
        call()
    except InterruptedError:
        print(peak() - before)
"""


def test_memory_does_not_grow_with_the_size_of_a_file(source: Path) -> None:
    """8 TiB have so many blocks that 32 bytes for each are 256 MiB."""
    with Path(source, "sparse").open("wb") as file:
        file.truncate(8 << 40)
    run = subprocess.run([sys.executable, "-c", SPARSE_SCRIPT], check=True, capture_output=True, text=True)
    peaks_kib = [int(line) for line in run.stdout.split()]
    assert len(peaks_kib) == 2
    assert max(peaks_kib) / 1024 < 32


def test_memory_of_many_files_is_small_for_each() -> None:
    """Every call stays below 8 MiB and 110 bytes for each file, and below 96 MiB however many they are."""
    files = int(os.environ.get("EM_MEMORY_FILES", "20000"))
    bench = Path(__file__).parents[2] / "benches" / "memory.py"
    command = [sys.executable, str(bench), "--only-calls", "--files", str(files), "--json"]
    environment = os.environ | {"EM_THREADS": "2", "EM_CAPTURE": "0"}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    figures = json.loads(run.stdout)["mib_above_import"]
    assert len(figures) == 12
    for mib in figures.values():
        assert 0 < mib * MIB <= min(8 * MIB + 110 * files, 96 * MIB), figures


TABLE_SCRIPT = """
import os, struct, xxhash
from t9k.em import _engine
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
COUNT, CHUNK, BLOCK = 1 << 20, 64 << 10, 1 << 14
name, checksum = b"n" * 32, xxhash.xxh3_64()
with _engine.Assembly("store") as assembly:
    def push(data):
        checksum.update(data)
        assembly.push_table(name, data)
    before = peak()
    push(struct.pack("<8sIIQQ", b"EMCHUNK", 1, 1, COUNT * CHUNK, COUNT))
    for _ in range(COUNT // BLOCK):
        push(b"".join(os.urandom(32) + CHUNK.to_bytes(4, "little") for _ in range(BLOCK)))
    assembly.push_table(name, checksum.intdigest().to_bytes(8, "little"))
    assembly.add(name, COUNT * CHUNK)
    assert assembly.want_more()
    print(len(assembly.wanted()[1]) // 4, peak() - before)
"""


def test_table_of_a_large_object_that_is_loaded_is_not_held() -> None:
    """An object of 68 GB in a million chunks: its table has 38 MB, and all of them would take 150."""
    run = subprocess.run([sys.executable, "-c", TABLE_SCRIPT], check=True, capture_output=True, text=True)
    wanted, peak_kib = map(int, run.stdout.split())
    assert 1 << 16 <= wanted < 1 << 17
    assert peak_kib / 1024 < 40

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


def bytes_of_calls(files: int) -> dict[str, float]:
    """Peak of each kind of call with so many small files, in bytes above what it began with."""
    bench = Path(__file__).parents[2] / "benches" / "memory.py"
    command = [sys.executable, str(bench), "--only-calls", "--files", str(files), "--json"]
    environment = os.environ | {"EM_THREADS": "2", "EM_CAPTURE": "0"}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    figures = json.loads(run.stdout)["mib_above_import"]
    return {name.partition(": ")[2]: mib * MIB for name, mib in figures.items()}


def test_memory_of_many_files_is_small_for_each() -> None:
    """So that a million files stay below 128 MiB; the files are counted, not the time."""
    few, many = 10_000, 60_000
    small, large = bytes_of_calls(few), bytes_of_calls(many)
    per_file = {name: round((large[name] - small[name]) / (many - few)) for name in small}
    assert max(per_file.values()) <= 110, per_file
    assert max(small.values()) < 16 * MIB, small

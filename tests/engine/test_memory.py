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

"""System calls that one more small file costs, counted by strace: exact, unlike time."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = "import sys\nfrom t9k import em\nem.create_artifact('a').add_dir(sys.argv[1])\n"
STARTUP_NOISE = {"mmap", "munmap", "brk", "futex", "sched_yield", "clock_nanosleep", "mprotect", "madvise"}


def count(source: str) -> Counter[str]:
    log = Path("log")
    command = ["strace", "-f", "-o", str(log), sys.executable, "-c", SCRIPT, source]
    environment = os.environ | {"EM_THREADS": "1", "EM_CAPTURE": "0"}
    subprocess.run(command, check=True, timeout=120, env=environment)
    calls: Counter[str] = Counter()
    for line in log.read_text(errors="replace").splitlines():
        name = line.split(maxsplit=1)[1].split("(")[0]
        if name.isidentifier() and name not in STARTUP_NOISE:
            calls[name] += 1
    return calls


pytestmark = pytest.mark.usefixtures("strace")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def per_file(fewer: Counter[str], more: Counter[str], files: int) -> dict[str, int]:
    costs = {name: round((more[name] - fewer[name]) / files) for name in more}
    return {name: cost for name, cost in sorted(costs.items()) if cost}


def test_system_calls_of_a_small_file() -> None:
    files = {"warm": range(1500), "few": range(2000, 3500), "many": range(4000, 6500)}
    for name, numbers in files.items():
        Path(name).mkdir()
        for number in numbers:
            path = Path(name, str(number))
            path.write_text(f"content {number}")
            os.utime(path, (1_700_000_000, 1_700_000_000))
    # No file is younger than the stat cache's slack, and each run touches all 256 fan-out directories and shards.
    time.sleep(2.1)
    count("warm")
    new = per_file(count("few"), count("many"), 1000)
    again = per_file(count("few"), count("many"), 1000)
    # The stat cache's shards grow with the files and are read in pieces: a part of a call for each file.
    assert new.pop("read", 0) <= 1
    assert new == {
        "close": 2,
        "fstat": 1,
        "getrandom": 1,
        "linkat": 1,
        "newfstatat": 2,
        "openat": 2,
        "pread64": 1,
        "pwrite64": 1,
        "renameat2": 1,
        "utimensat": 1,
    }
    assert again == {"linkat": 1, "newfstatat": 2}

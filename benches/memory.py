"""Peak memory above the import, in MiB: adding a large file, and every call with many small files."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from alternate import workplace

ADD = """
import sys
from t9k import em

def peak_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

artifact = em.create_artifact("a")
before = peak_kib()
artifact.add_dir(sys.argv[1])
print(peak_kib() - before)
"""

CALLS = """
import os, shutil, sys, time
from t9k import em
from t9k.em import _engine

def peak_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def measure(name, call):
    # Each in a child, whose peak is its own.
    if os.fork() == 0:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        before, began, cpu_began = peak_kib(), time.perf_counter(), time.process_time()
        call()
        took_s = time.perf_counter() - began, time.process_time() - cpu_began
        print(name, peak_kib() - before, *took_s, sep="\\t", flush=True)
        os._exit(0)
    assert os.wait()[1] == 0

new, again, one = (em.create_artifact(name) for name in ("new", "again", "one"))
measure("add, new", lambda: new.add_dir("small"))
measure("add again", lambda: again.add_dir("small"))
measure("add again to the same", lambda: again.add_dir("small"))
one.add_file("small/0/0")
measure("load", lambda: em.load_artifact(new.local))
measure("list", lambda: sum(1 for _ in new.entries()))
measure("verify", lambda: _engine.verify(".em/store", new.local))
measure("verify the store", lambda: _engine.verify(".em/store"))
measure("diff: bytes", lambda: _engine.diff(".em/store", again.local, new.local))
measure("diff: paths", lambda: sum(1 for _ in _engine.differences(one.local, new.local)))
measure("du", lambda: _engine.usage('.em/store', [new.local, again.local, one.local]))
measure("gc, nothing to do", lambda: _engine.gc(".em/store", 0, False))
for artifact in (new, again):
    shutil.rmtree(artifact.local)
measure("gc", lambda: _engine.gc(".em/store", 0, False))
"""


def python(script: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def added_mib(source: str) -> float:
    return round(int(python(ADD, source)) / 1024, 1)


def calls(files: int) -> dict[str, list[float]]:
    """MiB, seconds and processor seconds of each call with so many files of eight bytes, a thousand in a directory."""
    for index in range(files):
        path = Path("small", str(index // 1000), str(index % 1000))
        if index % 1000 == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(index.to_bytes(8, "big"))
    rows = (line.split("\t") for line in python(CALLS).splitlines())
    return {name: [round(int(kib) / 1024, 2), *(round(float(text), 2) for text in took)] for name, kib, *took in rows}


def run(arguments: argparse.Namespace) -> None:
    figures, seconds, cpu_seconds = {}, {}, {}
    with workplace():
        if not arguments.only_calls:
            for name in ("random", "sparse"):
                Path(name).mkdir()
            with open("random/file", "wb") as file:
                for _ in range(max(1, arguments.size >> 20)):
                    file.write(os.urandom(1 << 20))
            with open("sparse/file", "wb") as file:
                file.truncate(arguments.sparse)
            figures[f"{arguments.size} random bytes"] = added_mib("random")
            figures[f"{arguments.sparse} sparse bytes"] = added_mib("sparse")
        for name, (mib, took_s, cpu_s) in calls(arguments.files).items():
            figures[f"{arguments.files} files: {name}"], seconds[name], cpu_seconds[name] = mib, took_s, cpu_s
    if arguments.json:
        times = {"seconds": seconds, "cpu_seconds": cpu_seconds}
        print(json.dumps({"bench": "memory", "mib_above_import": figures} | times))
    else:
        for name, mib in figures.items():
            print(f"{name:45} {mib:8.1f} MiB above the import")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2_100_000_000, help="bytes of the random file")
    parser.add_argument("--sparse", type=int, default=20_000_000_000, help="bytes of the sparse file")
    parser.add_argument("--files", type=int, default=100_000, help="number of small files")
    parser.add_argument("--only-calls", action="store_true", help="only the small files")
    parser.add_argument("--json", action="store_true")
    run(parser.parse_args())

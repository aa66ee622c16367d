"""Peak memory of `add_dir` above the import, in MiB: a file of random bytes, a sparse one, and many small files."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from alternate import workplace

SCRIPT = """
import sys
from t9k import em

def peak_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

artifact = em.create_artifact("a")
before = peak_kib()
artifact.add_dir(sys.argv[1])
print(peak_kib() - before)
"""


def added_mib(source: str) -> float:
    output = subprocess.run([sys.executable, "-c", SCRIPT, source], check=True, capture_output=True, text=True)
    return round(int(output.stdout) / 1024, 1)


def run(arguments: argparse.Namespace) -> None:
    with workplace():
        for name in ("random", "sparse", "small"):
            Path(name).mkdir()
        with open("random/file", "wb") as file:
            for _ in range(max(1, arguments.size >> 20)):
                file.write(os.urandom(1 << 20))
        with open("sparse/file", "wb") as file:
            file.truncate(arguments.sparse)
        for index in range(arguments.files):
            Path("small", str(index)).write_bytes(index.to_bytes(8, "big"))
        figures = {
            f"{arguments.size} random bytes": added_mib("random"),
            f"{arguments.sparse} sparse bytes": added_mib("sparse"),
            f"{arguments.files} small files": added_mib("small"),
        }
    if arguments.json:
        print(json.dumps({"bench": "memory", "mib_above_import": figures}))
    else:
        for name, mib in figures.items():
            print(f"{name:28} {mib:8.1f} MiB above the import")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2_100_000_000, help="bytes of the random file")
    parser.add_argument("--sparse", type=int, default=20_000_000_000, help="bytes of the sparse file")
    parser.add_argument("--files", type=int, default=100_000, help="number of small files")
    parser.add_argument("--json", action="store_true")
    run(parser.parse_args())

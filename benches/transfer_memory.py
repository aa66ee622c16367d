"""Peak memory of a client that uploads an artifact, and of one that loads it, above the import, in MiB.

`python benches/transfer_memory.py [--size 2100000000] [--sparse 20000000000] [--files 100000]`: a file
of random bytes, a sparse one, and many small files, each through a new server and in processes of their own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from served import ROOT, Rows, go_home, parser, run_server, wait_until_hashed, workplace

LIMIT_MIB = 256.0

CLIENT = """
import sys
from t9k import em
url, key, verb, what = sys.argv[1:]

def peak_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

if verb == "add":
    artifact = em.create_artifact("a")
    artifact.add_dir(what)
    print(artifact.local)
    sys.exit()
em.login(url, key)
assert em.load_artifact
before = peak_kib()
em.load_artifact(what).upload("memory", make_folder=True) if verb == "upload" else em.load_artifact(what)
print((peak_kib() - before) / 1024)
"""


def client(url: str, key: str, verb: str, what: str) -> str:
    """What a process of its own prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    command = [sys.executable, "-c", CLIENT, url, key, verb, what]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout.strip()


def make(kind: str, size_bytes: int, sparse_bytes: int, files: int) -> None:
    """The directory `source`."""
    Path("source").mkdir()
    if kind == "random":
        with open("source/file", "wb") as file:
            for _ in range(max(1, size_bytes >> 20)):
                file.write(os.urandom(1 << 20))
    elif kind == "sparse":
        with open("source/file", "wb") as file:
            file.truncate(sparse_bytes)
    else:
        for index in range(files):
            directory = Path("source", str(index // 1000))
            directory.mkdir(exist_ok=True)
            (directory / str(index)).write_bytes(os.urandom(64))


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=2_100_000_000, help="bytes of the random file")
    options.add_argument("--sparse", type=int, default=20_000_000_000, help="bytes of the sparse file")
    options.add_argument("--files", type=int, default=100_000, help="number of small files")
    arguments = options.parse_args()
    kinds = {
        "random": f"{arguments.size} random bytes",
        "sparse": f"{arguments.sparse} sparse bytes",
        "small": f"{arguments.files} small files",
    }
    names = [f"{verb} {name}" for name in kinds.values() for verb in ("upload", "load")]
    rows = Rows("transfer, memory above the import in MiB", dict.fromkeys(names, LIMIT_MIB))
    with workplace(arguments):
        for _ in range(arguments.rounds):
            for kind, name in kinds.items():
                make(kind, arguments.size, arguments.sparse, arguments.files)
                with run_server(Path("data").absolute()) as server:
                    go_home("home")
                    local = client(server.url, server.api_key, "add", "source")
                    rows.note(f"upload {name}", float(client(server.url, server.api_key, "upload", local)))
                    wait_until_hashed(server)
                    go_home("elsewhere")
                    rows.note(f"load {name}", float(client(server.url, server.api_key, "load", "memory/a")))
                for directory in ("source", "data", "home", "elsewhere"):
                    shutil.rmtree(directory)
    rows.show(arguments.json)


if __name__ == "__main__":
    main()

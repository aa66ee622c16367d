"""Processes that upload artifacts with shared contents at once: what travels, and what is stored.

`python benches/transfer_many.py [--size 200000000] [--clients 8] [--rounds 3] [--apart 1] [--workers 1]
[--postgresql]`. Each artifact has `--size` random bytes in files of 1 MB, 70 % of them those of all others. They start
together, and in the other row `--apart` seconds one after the other. Sent is what the clients' packs had, stored what
all packs of the server have.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from served import ROOT, Rows, Serving, add, go_home, parser, serving, size_of, workplace

SHARED = 0.7
FILE_BYTES = 1_000_000
TARGETS = {
    "a second apart: bytes sent / unique": 1.1,
    "a second apart: bytes stored / unique": 1.02,
    "at once: bytes sent / unique": 1.1,
    "at once: bytes stored / unique": 1.02,
}

CLIENT = """
import json, sys, time
from pathlib import Path
from t9k import em
from t9k.em.client.connection import connected
from t9k.em.client.placement import Target
from t9k.em.transfer.upload import upload_artifact
url, key, local, start = sys.argv[1:]
em.login(url, key)
artifact = em.load_artifact(local)
time.sleep(max(0.0, float(start) - time.time()))
report = upload_artifact(connected(), artifact, Target("many", True, "new")).report
print(json.dumps([report.packed_bytes, report.new_bytes]))
"""


def make_sources(clients: int, size_bytes: int) -> int:
    """A directory for each client; answers how many bytes differ from one another."""
    files = max(2, size_bytes // FILE_BYTES)
    shared = round(files * SHARED)
    Path("shared").mkdir()
    for index in range(shared):
        Path("shared", str(index)).write_bytes(os.urandom(size_bytes // files))
    for client in range(clients):
        shutil.copytree("shared", f"source-{client}")
        for index in range(shared, files):
            Path(f"source-{client}", str(index)).write_bytes(os.urandom(size_bytes // files))
    return (shared + clients * (files - shared)) * (size_bytes // files)


def upload_all(server: Serving, clients: int, apart_s: float) -> int:
    """All clients upload; answers the bytes of the packs that they sent."""
    import time

    go_home("home")
    places = [add(f"a{client}", Path(f"source-{client}"))[0].local for client in range(clients)]
    start = time.time() + 3.0
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CLIENT, server.url, server.api_key, place, str(start + apart_s * number)],
            stdout=subprocess.PIPE,
            env=environment,
        )
        for number, place in enumerate(places)
    ]
    answers = [process.communicate()[0] for process in processes]
    return sum(json.loads(answer)[0] for answer in answers)


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=200_000_000, help="bytes of each artifact")
    options.add_argument("--clients", type=int, default=8)
    options.add_argument("--apart", type=float, default=1.0, help="seconds between two starts")
    options.add_argument("--workers", type=int, default=1, help="processes of the server")
    options.add_argument("--postgresql", action="store_true", help="private PostgreSQL instead of SQLite")
    arguments = options.parse_args()
    rows = Rows("transfer, many clients", TARGETS)
    with workplace(arguments):
        unique_bytes = make_sources(arguments.clients, arguments.size)
        for turn in range(arguments.rounds):
            for name, apart_s in (("at once", 0.0), ("a second apart", arguments.apart)):
                workers = ("--workers", str(arguments.workers))
                with serving(f"data-{turn}-{apart_s}", *workers, is_postgresql=arguments.postgresql) as server:
                    sent = upload_all(server, arguments.clients, apart_s)
                    rows.note(f"{name}: bytes sent / unique", sent / unique_bytes)
                    rows.note(f"{name}: bytes stored / unique", size_of(server.data / "blobs" / "packs") / unique_bytes)
                shutil.rmtree(f"data-{turn}-{apart_s}")
                shutil.rmtree("home")
    rows.show(arguments.json)


if __name__ == "__main__":
    main()

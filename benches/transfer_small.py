"""Uploads and loads of many small files over HTTP on one machine, beside `rsync -a` into a local daemon.

`python benches/transfer_small.py [--files 20000] [--rounds 3] [--directory DIR]`. Files of 4 to 14 kB, a thousand to a
directory. Each round has a new server and a new target of rsync. Without rsync its rows are left out, and that is said.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from add import small_files
from served import Counted, Rows, add, go_home, parser, serving, upload, wait_until_hashed, workplace
from t9k import em


def targets(files: int) -> dict[str, float]:
    """What the figures should be at most."""
    return {
        "upload S, new: time to rsync": 1.5,
        "upload S, new: requests": 40,
        "upload S again: requests": 3,
        "upload S again: bytes sent": 1000 + 40 * files,
        "upload S again: ms": 100,
        "load S when it is there: ms": 50,
    }


@contextmanager
def rsync_daemon() -> Iterator[str | None]:
    """The URL of a module below the working directory; None without rsync."""
    if shutil.which("rsync") is None:
        print("rsync is missing: its rows are left out", file=sys.stderr)
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    Path("rsynced").mkdir()
    module = f"[bench]\npath = {Path('rsynced').absolute()}\nread only = no\nuse chroot = no\nuid = 0\ngid = 0\n"
    Path("rsyncd.conf").write_text(module)
    command = ["rsync", "--daemon", "--no-detach", "--config=rsyncd.conf", "--address=127.0.0.1", f"--port={port}"]
    daemon = subprocess.Popen(command)
    try:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"rsync://127.0.0.1:{port}/bench"
    finally:
        daemon.terminate()
        daemon.wait()


def one_round(turn: int, module: str | None, counted: Counted, rows: Rows) -> None:
    """All rows once, on a new server."""
    other = None
    if module is not None:
        began = time.perf_counter()
        subprocess.run(["rsync", "-a", "S/", f"{module}/{turn}/"], check=True)
        other = time.perf_counter() - began
        rows.note("rsync -a: s", other)
    with serving(f"data-{turn}") as server:
        go_home(f"home-{turn}")
        artifact, add_s = add("S", Path("S"))
        counted.reset()
        report, seconds = upload(artifact, "new")
        if other is not None:
            rows.note("upload S, new: time to rsync", seconds / other)
            rows.note("add and upload S: time to rsync", (add_s + seconds) / other)
        rows.note("upload S, new: s", seconds)
        rows.note("upload S, new: requests", counted.requests)
        rows.note("upload S, new: bytes sent / S", report.packed_bytes / report.total_bytes)
        wait_until_hashed(server)
        counted.reset()
        _, seconds = upload(artifact, "again")
        rows.note("upload S again: requests", counted.requests)
        rows.note("upload S again: bytes sent", counted.sent_bytes)
        rows.note("upload S again: ms", seconds * 1000)
        go_home(f"elsewhere-{turn}")
        counted.reset()
        began = time.perf_counter()
        em.load_artifact("new/S")
        seconds = time.perf_counter() - began
        rows.note("load S, empty store: s", seconds)
        rows.note("load S, empty store: requests", counted.requests)
        began = time.perf_counter()
        em.load_artifact("new/S")
        rows.note("load S when it is there: ms", (time.perf_counter() - began) * 1000)


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    options.add_argument("--files", type=int, default=20_000)
    arguments = options.parse_args()
    rows = Rows("transfer, small files", targets(arguments.files))
    with workplace(arguments):
        small_files(Path("S"), arguments.files)
        counted = Counted()
        with rsync_daemon() as module:
            for turn in range(arguments.rounds):
                one_round(turn, module, counted, rows)
    rows.show(arguments.json)


if __name__ == "__main__":
    main()

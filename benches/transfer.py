"""Uploads and loads over HTTP on one machine: a BF16 checkpoint, its next version, re-sharded, and back.

`python benches/transfer.py [--size 2100000000] [--rounds 3] [--directory DIR]`. Each round has a new server (its start
is not counted) and new stores. Wall times are ratios to `cp -r` of the checkpoint in the same round; bytes and
requests are exact. B is A with half of its tensors changed a little, as an optimizer does, and a small tensor in front.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "server"), str(Path(__file__).parent)]

from harness import run_server  # noqa: E402
from t9k import em  # noqa: E402
from t9k.em.client.connection import connected  # noqa: E402
from t9k.em.client.placement import Target  # noqa: E402
from t9k.em.client.session import Session  # noqa: E402
from t9k.em.transfer.progress import Report  # noqa: E402
from t9k.em.transfer.upload import upload_artifact  # noqa: E402

Weights = dict[str, np.ndarray]


def weights(size_bytes: int) -> Weights:
    """BF16 weights: the upper halves of normal floats."""
    numbers = np.random.default_rng(0)
    rows = 2048
    count = max(8, size_bytes // (2 * rows * rows))
    return {
        f"layers.{index}.weight": (
            numbers.standard_normal((rows, rows), dtype=np.float32).view(np.uint32) >> 16
        ).astype(np.uint16)
        for index in range(count)
    }


def write(directory: Path, tensors: Weights, files: int) -> None:
    """The tensors in so many safetensors files."""
    directory.mkdir()
    names = list(tensors)
    for index in range(files):
        save_file({name: tensors[name] for name in names[index::files]}, directory / f"model-{index}.safetensors")


def next_version(tensors: Weights) -> tuple[Weights, int]:
    """B, and the bytes that differ from A."""
    numbers = np.random.default_rng(1)
    changed: Weights = {"_step": np.array([1], np.uint16)}
    size_bytes = 0
    for index, (name, tensor) in enumerate(tensors.items()):
        changed[name] = tensor
        if index % 2:
            values = (tensor.astype(np.uint32) << 16).view(np.float32)
            values = values + numbers.standard_normal(tensor.shape, dtype=np.float32) * np.float32(1e-3)
            changed[name] = (values.view(np.uint32) >> 16).astype(np.uint16)
            size_bytes += tensor.nbytes
    return changed, size_bytes


@contextmanager
def home(name: str) -> Iterator[None]:
    """A store and parent directories of their own."""
    names = {"EM_STORE_DIR": "store", "EM_ARTIFACT_PARENT_DIR": "artifacts", "XDG_CACHE_HOME": "cache"}
    os.environ |= {variable: os.path.abspath(f"{name}/{place}") for variable, place in names.items()}
    yield


class Counted:
    """Requests and bytes of bodies that this process sends."""

    def __init__(self) -> None:
        """Counts from now on."""
        self.requests = self.sent_bytes = 0
        send = Session._send

        def counting(session: Session, method: str, path: str, params, body, *rest):  # type: ignore[no-untyped-def]
            self.requests += 1
            if body is not None:
                self.sent_bytes += len(body) if isinstance(body, bytes) else body.seek(0, 2)
            return send(session, method, path, params, body, *rest)

        Session._send = counting  # type: ignore[method-assign]

    def taken(self) -> tuple[int, int]:
        """Requests and bytes since the last call."""
        found = self.requests, self.sent_bytes
        self.requests = self.sent_bytes = 0
        return found


def upload(name: str, source: Path, folder: str) -> tuple[float, Report]:
    """Adds a directory to a new artifact, and uploads that: seconds of the upload alone."""
    artifact = em.create_artifact(name)
    artifact.add_dir(str(source))
    began = time.perf_counter()
    report = upload_artifact(connected(), artifact, Target(folder, True, "new")).report
    return time.perf_counter() - began, report


def wait_until_hashed(data: Path) -> None:
    """Until the server has hashed every new object itself."""
    import sqlite3

    while True:
        with sqlite3.connect(f"file:{data}/aistore.sqlite3?mode=ro", uri=True) as database:
            (left,) = database.execute("SELECT count(*) FROM objects WHERE state = 'checking'").fetchone()
        if not left:
            return
        time.sleep(0.2)


def one_round(turn: int, changed_bytes: int, counted: Counted, rows: dict[str, list[float]]) -> None:
    """All rows once, on a new server."""

    def note(row: str, value: float) -> None:
        rows.setdefault(row, []).append(value)

    began = time.perf_counter()
    subprocess.run(["cp", "-r", "A", f"copy-{turn}"], check=True)
    yardstick = time.perf_counter() - began
    size_bytes = sum(path.stat().st_size for path in Path("A").iterdir())
    with run_server(Path(f"data-{turn}").absolute()) as server:
        em.login(server.url, server.api_key)
        with home(f"home-{turn}"):
            seconds, report = upload("A", Path("A"), "new")
            note("upload A, new: time to cp -r", seconds / yardstick)
            note("upload A, new: MB/s", size_bytes / 1e6 / seconds)
            note("upload A, new: bytes sent / A", report.packed_bytes / size_bytes)
            wait_until_hashed(server.data)
            counted.taken()
            seconds, _ = upload("A", Path("A"), "again")
            requests, sent_bytes = counted.taken()
            note("again: requests", requests)
            note("again: bytes sent", sent_bytes)
            note("again: ms", seconds * 1000)
            seconds, report = upload("B", Path("B"), "next")
            note("B after A: bytes sent / changed bytes", report.packed_bytes / changed_bytes)
            note("B after A: time to cp -r", seconds / yardstick)
            _, report = upload("C", Path("resharded"), "resharded")
            note("A in seven files: bytes sent / A", report.packed_bytes / size_bytes)
        with home(f"elsewhere-{turn}"):
            began = time.perf_counter()
            loaded = em.load_artifact("new/A")
            note("load A, empty store: time to cp -r", (time.perf_counter() - began) / yardstick)
            subprocess.run(["cmp", "A/model-0.safetensors", f"{loaded.local}/A/model-0.safetensors"], check=True)
            began = time.perf_counter()
            em.load_artifact("new/A")
            note("load A again: ms", (time.perf_counter() - began) * 1000)
        em.logout()


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=2_100_000_000, help="bytes of the checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default=None, help="where to work; default: the directory of temporary files")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ |= {"EM_QUIET": "1", "EM_CAPTURE": "0"}
    with tempfile.TemporaryDirectory(prefix="em-bench-", dir=arguments.directory) as directory:
        os.chdir(directory)
        first = weights(arguments.size)
        second, changed_bytes = next_version(first)
        write(Path("A"), first, 4)
        write(Path("B"), second, 4)
        write(Path("resharded"), dict(reversed(first.items())), 7)
        del first, second
        rows: dict[str, list[float]] = {}
        counted = Counted()
        for turn in range(arguments.rounds):
            one_round(turn, changed_bytes, counted, rows)
        os.chdir("/")
    if arguments.json:
        print(json.dumps(rows))
        return
    print(f"{arguments.size:,} bytes, {arguments.rounds} rounds: minimum and median")
    for row, values in rows.items():
        print(f"  {row:40} {min(values):10.3f} {statistics.median(values):10.3f}")


if __name__ == "__main__":
    main()

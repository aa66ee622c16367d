"""Resident memory of one worker under everything at once, and of a commit of a million entries.

`python benches/server_memory.py [--seconds 30] [--postgresql] [--entries 1000000]`. At once: four clients that PUT
packs of noise, two that GET ranges of packs, 16 that ask for their session, 50 runs that send batches of 1,000 points
with 4 metrics, two that list a folder of 10,000 nodes, two that read charts. Then, on a server of its own, a commit of
as many files of 8 bytes as are taken, beside the session. Told are the highest resident memory of each part and how
much of each work was done.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "server"), str(ROOT / "benches")]

from harness import Account, Serving, make_account, run_postgresql, run_server  # noqa: E402
from server_metrics import make_batch  # noqa: E402
from server_packs import CHUNK_BYTES, PACK_CHUNKS, RANGE_BYTES, STARTS, Client, commit  # noqa: E402
from t9k.aistore.db import Database  # noqa: E402
from test_listing_plans import fill  # noqa: E402
from uploads import digest, pack_name, pack_of, signed  # noqa: E402

TARGET_MIB = 400
PACK_FILES = 60_000

Work = Callable[[int, Callable[[], bool]], int]
"""What one client does until it is over; takes its number, answers how often it did it."""


class Peak:
    """The highest resident memory of the process since the last look."""

    def __init__(self, process_id: int) -> None:
        """Counts from now on."""
        self._directory = Path(f"/proc/{process_id}")
        self.again()

    def again(self) -> None:
        """Forgets what was before."""
        (self._directory / "clear_refs").write_text("5")

    def mib(self) -> float:
        """The highest."""
        return int(self._directory.joinpath("status").read_text().split("VmHWM:")[1].split()[0]) / 1024


@contextmanager
def working(works: dict[str, tuple[int, Work]]) -> Iterator[dict[str, int]]:
    """Does each work in threads of a process of its own until the block ends; the dict then has what was done."""
    done: dict[str, int] = {}
    context = multiprocessing.get_context("fork")
    is_over, counts = context.Event(), context.SimpleQueue()

    def run(name: str, clients: int, work: Work) -> None:
        with ThreadPoolExecutor(clients) as pool:
            counts.put((name, sum(pool.map(lambda number: work(number, is_over.is_set), range(clients)))))

    processes = [context.Process(target=run, args=(name, *work)) for name, work in works.items()]
    for process in processes:
        process.start()
    try:
        yield done
    finally:
        is_over.set()
        done.update(counts.get() for _ in processes)
        for process in processes:
            process.join()


def repeat(serving: Serving, one: Callable[[Client, int], object], key: str = "") -> Work:
    """A work that does one thing again and again on a connection."""

    def work(_: int, is_over: Callable[[], bool]) -> int:
        own, count = Client(serving.url, key or serving.api_key), 0
        while not is_over():
            one(own, count)
            count += 1
        return count

    return work


def session_getter(serving: Serving) -> Work:
    """A work that asks who it is."""
    return repeat(serving, lambda own, _: own.call("GET", "/api/v1/session"))


def loads(serving: Serving, folder: str, account: Account) -> dict[str, tuple[int, Work]]:
    """The works, by name: how many clients, and what each does until it is over; answers how often."""
    first = [os.urandom(CHUNK_BYTES) for _ in range(PACK_CHUNKS)]
    pack = pack_of(first)
    client = Client(serving.url, serving.api_key)
    client.call("PUT", f"/api/v1/packs/{pack_name(pack).hex()}", pack)
    node_id = commit(client, first, 0)
    batches = [make_batch(number * 1000, 1000, 4) for number in range(4)]
    run_ids = []
    for number in range(50):
        body = {"client_id": f"run-{number}", "placement": {"folder": "/admin/default", "name": f"run-{number}"}}
        made = client.call("POST", "/api/v1/runs", json.dumps(body).encode(), **{"Content-Type": "application/json"})
        run_ids.append(json.loads(made)["node"]["id"])

    def put(own: Client, _: int) -> None:
        fresh = pack_of([os.urandom(CHUNK_BYTES) for _ in range(PACK_CHUNKS)])
        own.call("PUT", f"/api/v1/packs/{pack_name(fresh).hex()}", fresh)

    def get(own: Client, count: int) -> None:
        start = STARTS[count % len(STARTS)]
        path = f"/api/v1/packs/{pack_name(pack).hex()}?artifact={node_id}&version=1"
        own.call("GET", path, Range=f"bytes={start}-{start + RANGE_BYTES - 1}")

    def send(number: int, is_over: Callable[[], bool]) -> int:
        own, count = Client(serving.url, serving.api_key), 0
        while not is_over():
            path = f"/api/v1/runs/{run_ids[number]}/metrics/train/{count}?session=bench"
            own.call("PUT", path, batches[count % len(batches)])
            count += 1
        return count

    def chart(own: Client, count: int) -> None:
        with suppress(AssertionError):  # the run has sent nothing yet
            own.call("GET", f"/api/v1/runs/{run_ids[count % 50]}/metrics/train/buckets?width=1000")

    listed = f"/api/v1/nodes/{folder}/children?limit=1000&sort=changed"
    return {
        "packs put": (4, repeat(serving, put)),
        "ranges got": (2, repeat(serving, get)),
        "sessions": (16, session_getter(serving)),
        "batches": (50, send),
        "pages listed": (2, repeat(serving, lambda own, _: own.call("GET", listed), account.key)),
        "charts": (2, repeat(serving, chart)),
    }


def commit_many(serving: Serving, entries: int) -> Callable[[], float]:
    """Sends the packs of so many files of 8 bytes; answers what commits them, and answers seconds."""
    client, rows, lease = Client(serving.url, serving.api_key), [], {}
    for start in range(0, entries, PACK_FILES):
        chunks = [struct.pack("<Q", number) for number in range(start, min(start + PACK_FILES, entries))]
        pack = pack_of(chunks)
        answer = client.call("PUT", f"/api/v1/packs/{pack_name(pack).hex()}", pack, **lease)
        lease = {"EM-Lease": json.loads(answer)["lease"]}
        rows += [(8, digest(chunk)) for chunk in chunks]
    entries_of = (
        b"\0" + struct.pack("<H", 7) + b"%07d" % number + struct.pack("<Q", size) + name
        for number, (size, name) in enumerate(rows)
    )
    manifest = signed(b"EMMANIF\0" + struct.pack("<IQ", 1, len(rows)) + b"".join(entries_of))
    place = {"folder": "/admin/default", "name": "many"}
    wish = json.dumps({"manifest_digest": digest(manifest).hex(), "placement": place}).encode()
    body = struct.pack("<I", len(wish)) + wish + struct.pack("<Q", len(manifest)) + manifest

    def send() -> float:
        began = time.perf_counter()
        fresh = Client(serving.url, serving.api_key)  # the other has been idle for too long
        fresh.call("POST", "/api/v1/artifacts/commit", body, **{"Idempotency-Key": "many", **lease})
        return time.perf_counter() - began

    return send


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--postgresql", action="store_true", help="a private PostgreSQL instead of SQLite")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aistore-bench-")))

        def database_url() -> str | None:
            return stack.enter_context(run_postgresql()).format("postgres") if options.postgresql else None

        url = database_url()
        with run_server(directory / "busy", url) as serving:
            database = Database(url or f"sqlite:///{directory}/busy/aistore.sqlite3")
            account = make_account(database, "bench")
            folder = fill(database, account, 10_000, 0)
            database.close()
            peak = Peak(serving.process.pid)
            print(f"idle: {peak.mib():.0f} MiB", flush=True)
            works = loads(serving, folder, account)
            peak.again()
            with working(works) as done:
                time.sleep(options.seconds)
            highest = f"{peak.mib():.0f} MiB, target {TARGET_MIB}"
            print(f"everything at once, {options.seconds:.0f} s: {highest}; {done}", flush=True)
        if not options.entries:
            return
        with run_server(directory / "commit", database_url()) as serving:
            send = commit_many(serving, options.entries)
            peak = Peak(serving.process.pid)
            before = peak.mib()
            with working({"sessions": (4, session_getter(serving))}):
                took = send()
            print(f"commit of {options.entries:,} files: {peak.mib():.0f} MiB, {before:.0f} before it; {took:.1f} s")


if __name__ == "__main__":
    main()

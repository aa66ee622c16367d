"""Batches of metrics that a server takes, and a chart of a million points. Server and client share this machine.

Each of the runs sends a batch, waits until the server says that it is durable, and sends the next. At the end the
server is asked how many points it has: as many as it acknowledged.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "server"))

from harness import run_postgresql
from t9k.protocol.metric_batch import NO_EPOCH, Batch, encode_batch

MILLION = 1_000_000


class Server:
    """A server in a process of its own, and requests to it."""

    def __init__(self, data: Path, database_url: str | None) -> None:
        """Starts it and waits until it answers."""
        ready = data / "ready.json"
        command = [sys.executable, "-m", "t9k.aistore", "serve", "--data", str(data), "--port", "0"]
        command += ["--ready-file", str(ready)] + (["--database-url", database_url] if database_url else [])
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while not ready.exists():
            if self.process.poll() is not None:
                sys.exit("the server did not start")
            time.sleep(0.02)
        document = json.loads(ready.read_text())
        self.url, self.key, self.user = document["url"], document["api_key"], document["user"]
        self.host, port = self.url.removeprefix("http://").rsplit(":", 1)
        self.port = int(port)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Sends a request; answers its JSON."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/api/v1{path}", data, headers, method=method)
        with urllib.request.urlopen(request) as response:
            return json.load(response)

    def new_run(self, name: str) -> str:
        """Id of a new run."""
        body = {"client_id": name, "placement": {"folder": f"/{self.user}/default", "name": name}}
        return str(self.call("POST", "/runs", body)["node"]["id"])

    def resident_mib(self) -> float:
        """Memory of the process now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def cpu_s(self) -> float:
        """Processor time of the process."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """Ends it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def make_batch(first: int, count: int, names: int) -> bytes:
    """Points as training logs them: noisy curves of full precision, regular steps, times with jitter."""
    chance = random.Random(first)
    steps = array("q", range(first, first + count))
    times = array("q", (1_700_000_000_000_000 + step * 200 + chance.randrange(50) for step in steps))
    values = {
        f"metric_{number}": array("d", (math.exp(-step / MILLION) + chance.gauss(0, 0.01) for step in steps))
        for number in range(names)
    }
    return encode_batch(Batch(steps, array("q", [NO_EPOCH]) * count, times, values))


async def send(server: Server, run_id: str, batches: list[bytes], until: float, limit: int | None = None) -> int:
    """Sends batches of one run, one after the other, on one connection; answers how many were acknowledged."""
    reader, writer = await asyncio.open_connection(server.host, server.port)
    sequence = 0
    while time.monotonic() < until and sequence != limit:
        body = batches[sequence % len(batches)]
        head = (
            f"PUT /api/v1/runs/{run_id}/metrics/train/{sequence}?session=bench HTTP/1.1\r\nHost: {server.host}\r\n"
            f"Authorization: Bearer {server.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        if not answer.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(answer.decode())
        length = next(int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(length)
        sequence += 1
    writer.close()
    return sequence


def ingest(server: Server, runs: int, points: int, names: int, seconds: float) -> dict[str, Any]:
    """All runs send at once for some seconds."""
    prefix = f"p{points}n{names}"
    run_ids = [server.new_run(f"{prefix}-{number}") for number in range(runs)]
    batches = [make_batch(number * points, points, names) for number in range(8)]

    async def all_runs() -> list[int]:
        until = time.monotonic() + seconds
        return await asyncio.gather(*(send(server, run_id, batches, until) for run_id in run_ids))

    began, cpu_began = time.monotonic(), server.cpu_s()
    acknowledged = sum(asyncio.run(all_runs()))
    took = time.monotonic() - began
    cpu_s = server.cpu_s() - cpu_began
    stored = sum(server.call("GET", f"/runs/{run_id}/metrics")["types"][0]["points"] for run_id in run_ids)
    if stored != acknowledged * points:
        raise RuntimeError(f"{acknowledged * points} points were acknowledged and {stored} are there")
    return {
        "points in a batch": points,
        "metrics": names,
        "batches/s": round(acknowledged / took),
        "points/s": round(acknowledged * points / took),
        "values/s": round(acknowledged * points * names / took),
        "server's cores": round(cpu_s / took, 2),
        "resident MiB": round(server.resident_mib()),
    }


def chart(server: Server, names: int) -> dict[str, Any]:
    """Buckets of one metric of a run with a million points: just after they came, and merged."""
    run_id = server.new_run(f"million-{names}")
    batches = [make_batch(first, 5000, names) for first in range(0, MILLION, 5000)]
    asyncio.run(send(server, run_id, batches, math.inf, len(batches)))

    def median_ms() -> float:
        times = []
        for _ in range(7):
            began = time.perf_counter()
            found = server.call("GET", f"/runs/{run_id}/metrics/train/buckets?width=1000&name=metric_0")
            times.append((time.perf_counter() - began) * 1000)
            assert sum(found["metrics"][0]["logged"]) == MILLION
        return round(statistics.median(times), 1)

    time.sleep(12)  # two turns of the job that merges
    return {"metrics": names, "1,000 buckets of 1,000,000 points, median ms": median_ms()}


def main() -> None:
    """Runs all of it and prints a line of JSON for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--batches", default="500x1,1000x4,5000x1,5000x4", help="points x metrics, several")
    parser.add_argument("--postgresql", action="store_true", help="a private PostgreSQL instead of SQLite")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="aistore-bench-"))
        database_url = stack.enter_context(run_postgresql()).format("postgres") if arguments.postgresql else None
        server = Server(Path(directory), database_url)
        try:
            for shape in arguments.batches.split(","):
                points, names = map(int, shape.split("x"))
                print(json.dumps(ingest(server, arguments.runs, points, names, arguments.seconds)), flush=True)
            for names in (1, 20):
                print(json.dumps(chart(server, names)), flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()

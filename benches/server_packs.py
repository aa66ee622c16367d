"""Packs through a real server: PUT beside an endpoint that throws bytes away, ranged GET beside a static-file server.

`python benches/server_packs.py [--mib 1024] [--rounds 3] [--clients 1] [--directory DIR]`. Packs have 1 MiB chunks of
noise, stored raw. Both sides of a comparison run on uvicorn with httptools and uvloop, one worker, and get the same
bytes by the same client, one after the other in each round. PUT is acknowledged when every chunk was hashed and bytes
and rows are synced. Also told: the server's highest resident memory.
"""

from __future__ import annotations

import argparse
import http.client
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "server")]

from harness import run_server  # noqa: E402
from uploads import digest, manifest_of, pack_name, pack_of  # noqa: E402

BARE = """
import sys
import uvicorn

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})

if sys.argv[1] != "discard":
    from starlette.staticfiles import StaticFiles
    app = StaticFiles(directory=sys.argv[1])
uvicorn.run(app, port=int(sys.argv[2]), log_level="error", http="httptools", loop="uvloop", lifespan="off")
"""
CHUNK_BYTES = 1 << 20
PACK_CHUNKS = 63
RANGE_BYTES = 8 * (CHUNK_BYTES + 41)
STARTS = [12 + at * RANGE_BYTES for at in range(PACK_CHUNKS // 8)]
"""Of ranges of eight records of a pack."""


class Client:
    """A connection that sends what it is given."""

    def __init__(self, url: str, key: str = "") -> None:
        """Connects at the first request."""
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> bytes:
        """The body of a successful answer."""
        self._connection.request(method, path, body, {**self._headers, **headers})
        response = self._connection.getresponse()
        data = response.read()
        assert response.status < 300, data
        return data


def bare(what: str, stack: ExitStack) -> str:
    """Starts a bare server; answers its URL."""
    port = 20_000 + os.getpid() % 10_000 + (what != "discard")
    process = subprocess.Popen([sys.executable, "-c", BARE, what, str(port)])
    stack.callback(process.wait)
    stack.callback(process.kill)
    for _ in range(200):
        try:
            http.client.HTTPConnection("127.0.0.1", port, timeout=1).connect()
            break
        except OSError:
            time.sleep(0.05)
    return f"http://127.0.0.1:{port}"


def timed(works: list[Callable[[], object]]) -> float:
    """Seconds of some works at once."""
    threads = [threading.Thread(target=work) for work in works]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    count = max(1, options.mib // PACK_CHUNKS)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as directory, ExitStack() as stack:
        serving = stack.enter_context(run_server(Path(directory) / "served"))
        discard = bare("discard", stack)
        static_dir = Path(directory) / "static"
        static_dir.mkdir()
        put: dict[str, list[float]] = {"discard": [], "server": []}
        get: dict[str, list[float]] = {"static": [], "server": []}
        for turn in range(options.rounds):
            chunks = [[os.urandom(CHUNK_BYTES) for _ in range(PACK_CHUNKS)] for _ in range(count)]
            packs = [pack_of(part) for part in chunks]
            names = [pack_name(pack).hex() for pack in packs]
            size = sum(map(len, packs))

            def sender(url: str, key: str, part: int, packs: list[bytes] = packs, names: list[str] = names) -> object:
                client, lease = Client(url, key), {}
                for number in range(part, len(packs), options.clients):
                    client.call("PUT", f"/api/v1/packs/{names[number]}", packs[number], **lease)
                return None

            for name, url, key in (("discard", discard, ""), ("server", serving.url, serving.api_key)):
                works = [lambda url=url, key=key, n=n: sender(url, key, n) for n in range(options.clients)]
                put[name].append(timed(works) / size * 1e9)
            node_id = commit(Client(serving.url, serving.api_key), [c for part in chunks for c in part], turn)
            for number, pack in enumerate(packs):
                (static_dir / names[number]).write_bytes(pack)
            if not turn:
                static = bare(str(static_dir), stack)

            def getter(url: str, key: str, path: str, part: int, names: list[str] = names) -> object:
                client = Client(url, key)
                for name in names[part :: options.clients]:
                    for start in STARTS:
                        end = start + RANGE_BYTES
                        data = client.call("GET", path.format(name), Range=f"bytes={start}-{end - 1}")
                        assert len(data) == end - start
                return None

            ours = "/api/v1/packs/{}?artifact=" + node_id + "&version=1"
            read = count * len(STARTS) * RANGE_BYTES
            for name, url, key, path in (
                ("static", static, "", "/{}"),
                ("server", serving.url, serving.api_key, ours),
            ):
                works = [lambda u=url, k=key, p=path, n=n: getter(u, k, p, n) for n in range(options.clients)]
                get[name].append(timed(works) / read * 1e9)
            for path in static_dir.iterdir():
                path.unlink()
        peak = Path(f"/proc/{serving.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]
        for what, seconds in (("PUT", put), ("GET", get)):
            other, own = ({name: statistics.median(values) for name, values in seconds.items()}[n] for n in seconds)
            print(f"{what}: {next(iter(seconds))} {1 / other:.2f} GB/s, server {1 / own:.2f} GB/s: {other / own:.2f}x")
        print(f"highest resident memory of the server: {int(peak) / 1024:.0f} MiB")


def commit(client: Client, chunks: list[bytes], turn: int) -> str:
    """Commits an artifact of one file for each chunk; answers its id."""
    import json

    manifest = manifest_of({f"{number}": (len(chunk), digest(chunk)) for number, chunk in enumerate(chunks)})
    place = {"folder": "/admin/default", "name": f"turn-{turn}"}
    wish = json.dumps({"manifest_digest": digest(manifest).hex(), "placement": place}).encode()
    body = struct.pack("<I", len(wish)) + wish + struct.pack("<Q", len(manifest)) + manifest
    answer = client.call("POST", "/api/v1/artifacts/commit", body, **{"Idempotency-Key": f"turn-{turn}"})
    return str(json.loads(answer)["node"]["id"])


if __name__ == "__main__":
    main()

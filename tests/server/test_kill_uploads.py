"""A real server, killed at random moments of uploads, and one whose disk is full.

`AISTORE_KILLS` sets how often it is killed for each database.
"""

from __future__ import annotations

import itertools
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
from harness import Account, Serving, run_server
from run_records import batch
from t9k.aistore.accounts.caller import Caller
from t9k.protocol.metric_batch import encode_batch
from uploads import Content, Uploader, digest, noise, pack_of

KILLS = int(os.environ.get("AISTORE_KILLS", "5"))
NOBODY = Caller(user_id="", name="", role="user", domain="")


def client_of(serving: Serving, key: str) -> Uploader:
    """A client of a real server, with a connection of its own."""
    return Uploader(httpx2.Client(base_url=serving.url, timeout=60), Account("admin", key, NOBODY))  # type: ignore[arg-type]


@dataclass
class Acknowledged:
    """What the server has said is done.

    Attributes:
        artifacts: Content by node, since the last kill.
        chunks: Digests of all chunks.
        tried: Content by Idempotency-Key, acknowledged or not, since the last kill.
        looked_at: Nodes of artifacts that were downloaded after an earlier kill; later they need only be there.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    artifacts: dict[str, Content] = field(default_factory=dict)
    chunks: set[bytes] = field(default_factory=set)
    tried: dict[str, Content] = field(default_factory=dict)
    looked_at: set[str] = field(default_factory=set)


def work(serving: Serving, key: str, seed: int, done: Acknowledged) -> None:
    """Uploads until the server is gone. Each artifact shares chunks with the one before."""
    uploader, chance = client_of(serving, key), random.Random(seed)
    try:
        for turn in range(10_000):
            chunks = [noise((seed, turn - back), chance.choice((10, 5_000, 200_000))) for back in (0, 1)]
            content = Content({"pair": chunks, "one": chunks[:1]})
            uploader.unknown({name: sum(map(len, parts)) for name, parts in content.objects.items()})
            gone = uploader.missing(content.chunks)
            if gone:
                response = uploader.put(pack_of(gone))
                assert response.status_code in (200, 201), response.text
                with done.lock:
                    done.chunks |= set(map(digest, gone))
            name = f"{seed}-{turn}"
            with done.lock:
                done.tried[name] = content
            response = uploader.commit(content, key=name, placement={"name": name})
            assert response.status_code == 201, response.text
            with done.lock:
                done.artifacts[response.json()["node"]["id"]] = content
    except httpx2.TransportError:
        pass
    finally:
        uploader.client.close()


def look(serving: Serving, key: str, done: Acknowledged) -> None:
    """All that was acknowledged is there, and nothing is there by half."""
    uploader = client_of(serving, key)
    for node_id, content in done.artifacts.items():
        assert uploader.download(node_id) == {name: b"".join(parts) for name, parts in content.objects.items()}
    done.looked_at |= set(done.artifacts)
    assert uploader.missing_names(sorted(done.chunks)) == []
    listed = nodes_of(uploader)
    assert done.looked_at <= set(listed)
    for node_id in set(listed) - done.looked_at:
        name = listed[node_id]
        content = done.tried[name]
        expected = {which: b"".join(parts) for which, parts in content.objects.items()}
        assert uploader.download(node_id) == expected
        again = uploader.commit(content, key=name, placement={"name": name})
        assert again.json()["node"]["id"] == node_id  # whose answer was lost asks again
        done.looked_at.add(node_id)
    done.artifacts.clear()
    done.tried.clear()
    uploader.client.close()


def nodes_of(uploader: Uploader) -> dict[str, str]:
    """Names of the nodes in the folder that is uploaded to, by their ids."""
    answer = uploader.call("GET", "/nodes", params={"path": "/admin/default"})
    found: dict[str, str] = {}
    at: dict[str, str] = {}
    while answer.status_code == 200:
        children = f"/nodes/{answer.json()['id']}/children"
        page = uploader.call("GET", children, params={"limit": "1000", **at}).json()
        found |= {node["id"]: node["name"] for node in page["nodes"]}
        if page["next"] is None:
            break
        at = {"cursor": page["next"]}
    return found


def check(data: Path, database_url: str | None, *, read: bool = True) -> None:
    """`aistore check` finds nothing that is lost."""
    where = ["--data", str(data)] + ([] if database_url is None else ["--database-url", database_url])
    command = [sys.executable, "-m", "t9k.aistore", *where, "check", *(["--read"] if read else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_killed_server_has_all_that_it_acknowledged(tmp_path: Path, database_url: str | None) -> None:
    data, chance, done, key = tmp_path / "served", random.Random(4), Acknowledged(), ""
    for turn in range(KILLS):
        with run_server(data, database_url) as serving:
            key = serving.api_key or key
            look(serving, key, done)
            threads = [
                threading.Thread(target=work, args=(serving, key, 10 * turn + number, done)) for number in range(3)
            ]
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.1, 1.5))
            serving.process.kill()
            for thread in threads:
                thread.join()
        check(data, database_url, read=turn < 5 or turn % 20 == 0)  # reading takes the longer, the more there is
    check(data, database_url)
    with run_server(data, database_url) as serving:
        look(serving, key, done)
    assert done.chunks


@pytest.fixture
def mount(small_disk: Callable[[int], Path]) -> Path:
    """A file system of 24 MiB."""
    return small_disk(24)


def enlarge(mount: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(mount)], check=True)


def test_full_disk_is_told_reading_goes_on_and_room_is_used(mount: Path) -> None:
    with run_server(mount / "served") as serving:
        uploader = client_of(serving, serving.api_key)
        content = Content({"x": [noise(1, 2 << 20)]})
        node_id = uploader.upload(content)["node"]["id"]
        full = []
        for number in range(2, 30):
            response = uploader.put(pack_of([noise(number, 2 << 20)]))
            if response.status_code == 507:
                full.append(response.json())
                if len(full) == 3:
                    break
            else:
                assert response.status_code == 201
        assert [problem["kind"] for problem in full] == ["store"] * 3
        assert uploader.download(node_id)
        assert uploader.call("GET", "/session").status_code == 200
        enlarge(mount)
        assert uploader.put(pack_of([noise("more", 2 << 20)])).status_code == 201
        uploader.client.close()
    check(mount / "served", None)


def test_every_write_on_a_full_disk_is_507_and_all_succeed_when_there_is_room(mount: Path) -> None:
    with run_server(mount / "served") as serving:
        uploader = client_of(serving, serving.api_key)
        content = Content({"x": [b"of a small artifact"]})
        node_id = uploader.upload(content)["node"]["id"]
        log = b"x" * 100_000
        points = encode_batch(batch(0, 10_000, loss=[0.1] * 10_000))
        numbers = itertools.count()
        writes: dict[str, Callable[[int], httpx2.Response]] = {
            "folder": lambda n: uploader.call("POST", "/folders", json={"path": f"/admin/f{n}"}),
            "description": lambda n: uploader.call("PATCH", f"/nodes/{node_id}", json={"description": f"{n}" * 9000}),
            "run": lambda n: uploader.call("POST", "/runs", json=new_run(n)),
            "metrics": lambda n: uploader.call(
                "PUT", f"/runs/{run_id}/metrics/train/{n}", params={"session": "s"}, content=points
            ),
            "log": lambda n: uploader.call("PUT", f"/runs/{run_id}/log", params={"offset": log_bytes()}, content=log),
            "key": lambda n: uploader.call("POST", "/keys", json={"name": f"k{n}"}),
            "commit": lambda n: uploader.commit(content, key=f"{n}", placement={"name": f"c{n}"}),
            "pack": lambda n: uploader.put(pack_of([noise(n, 100_000)])),
        }

        def new_run(number: int) -> dict[str, object]:
            return {"client_id": f"r{number}", "placement": {"folder": "/admin/default", "name": f"r{number}"}}

        def log_bytes() -> int:
            return int(uploader.call("GET", f"/runs/{run_id}").json()["log_bytes"])

        run_id = uploader.call("POST", "/runs", json=new_run(next(numbers))).json()["node"]["id"]
        with open(mount / "filler", "wb") as filler, suppress(OSError):
            while True:
                filler.write(bytes(1 << 16))
                filler.flush()
        refused = set()
        for write in list(writes) * 60:
            response = writes[write](next(numbers))
            if response.status_code == 507:
                assert response.json()["kind"] == "store", response.text
                refused.add(write)
            else:
                assert response.status_code in (200, 201), (write, response.text)
            if refused == set(writes):
                break
        assert refused == set(writes)
        assert uploader.download(node_id) == {digest(b"of a small artifact"): b"of a small artifact"}
        assert uploader.call("GET", f"/runs/{run_id}/log").content == log * (log_bytes() // len(log))
        (mount / "filler").unlink()
        enlarge(mount)
        for name, write in writes.items():
            assert write(next(numbers)).status_code in (200, 201), name
        uploader.client.close()
    check(mount / "served", None)

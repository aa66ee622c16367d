"""What the server has acknowledged is there after SIGKILL, once, and in its place."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from array import array
from pathlib import Path
from typing import Any

from harness import Serving, run_server
from t9k.protocol.metric_batch import NO_EPOCH, Batch, decode_batch, encode_batch

WRITERS = 8
ROUNDS = 4
POINTS = 20


class Writer(threading.Thread):
    """Sends batches of one session until the server is gone; knows which were acknowledged."""

    def __init__(self, server: Serving, key: str, run_id: str, session: str, first: int) -> None:
        super().__init__()
        self.server, self.key, self.run_id, self.session = server, key, run_id, session
        self.next = first

    def run(self) -> None:
        connection = http.client.HTTPConnection(self.server.url.removeprefix("http://"), timeout=30)
        try:
            while True:
                url = f"/api/v1/runs/{self.run_id}/metrics/train/{self.next}?session={self.session}"
                headers = {"Authorization": f"Bearer {self.key}"}
                connection.request("PUT", url, content(self.session, self.next), headers)
                response = connection.getresponse()
                response.read()
                assert response.status in (200, 201)
                self.next += 1
        except (OSError, http.client.HTTPException):
            pass  # killed
        finally:
            connection.close()


def content(session: str, sequence: int) -> bytes:
    """A batch whose values say which it is."""
    steps = array("q", range(sequence * POINTS, (sequence + 1) * POINTS))
    values = {"number": array("d", [float(sequence)]) * POINTS, "writer": array("d", [float(session[1:])]) * POINTS}
    return encode_batch(Batch(steps, array("q", [NO_EPOCH]) * POINTS, steps, values))


def call(server: Serving, key: str, method: str, url: str, body: Any = None, **headers: str) -> bytes:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    data = None if body is None else json.dumps(body)
    connection.request(method, f"/api/v1{url}", data, {"Authorization": f"Bearer {key}"} | headers)
    response = connection.getresponse()
    read = response.read()
    assert response.status < 300, read
    connection.close()
    return read


def test_acknowledged_batches_survive_sigkill(tmp_path: Path, database_url: str | None) -> None:
    chance = random.Random(7)
    key = run_id = ""
    following = dict.fromkeys((f"w{number}" for number in range(WRITERS)), 0)
    for turn in range(ROUNDS):
        with run_server(tmp_path / "served", database_url) as server:
            if turn == 0:
                key = server.api_key
                body = {"client_id": "c", "placement": {"folder": f"/{server.user}/default", "name": "run"}}
                json_type = {"Content-Type": "application/json"}
                run_id = json.loads(call(server, key, "POST", "/runs", body, **json_type))["node"]["id"]
            writers = [Writer(server, key, run_id, session, first) for session, first in following.items()]
            for writer in writers:
                writer.start()
            time.sleep(chance.uniform(0.3, 1.5))
            server.process.kill()
            for writer in writers:
                writer.join()
                following[writer.session] = writer.next
    assert min(following.values()) > 0
    with run_server(tmp_path / "served", database_url) as server:
        found: dict[float, list[tuple[int, float]]] = {}
        cursor = ""
        while True:
            url = f"/runs/{run_id}/metrics/train?limit=5000{cursor}"
            connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
            headers = {"Authorization": f"Bearer {key}", "Accept": "application/octet-stream"}
            connection.request("GET", f"/api/v1{url}", headers=headers)
            response = connection.getresponse()
            page = decode_batch(response.read())
            for step, number, writer_number in zip(
                page.steps, page.values["number"], page.values["writer"], strict=True
            ):
                found.setdefault(writer_number, []).append((step, number))
            connection.close()
            if response.headers["EM-Next"] is None:
                break
            cursor = f"&cursor={response.headers['EM-Next']}"
        for session, acknowledged in following.items():
            points = found[float(session[1:])]
            # The one that was under way may be there too; each is there once and whole.
            stored = len(points) // POINTS
            assert stored in (acknowledged, acknowledged + 1)
            assert points == [(step, float(step // POINTS)) for step in range(stored * POINTS)]

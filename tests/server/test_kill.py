"""SIGKILL of a real server under a mixed load, with a model of what it acknowledged.

After each kill the server starts again on the same data: what it acknowledged is there, what it did not is there whole
or not at all, and it answers within a minute. `AISTORE_KILLS` sets how often.
"""

from __future__ import annotations

import os
import random
import threading
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import requests
from harness import Serving, run_server
from t9k.protocol.metric_batch import NO_EPOCH, Batch, encode_batch

KILLS = int(os.environ.get("AISTORE_KILLS", "6"))
LONGEST_LOAD_S = 1.5


class Load(Protocol):
    """One client that changes its own part of the server's data, and remembers what was acknowledged."""

    def step(self, http: requests.Session, url: str) -> None:
        """Makes one change; a connection that breaks leaves it unknown."""

    def check(self, http: requests.Session, url: str) -> None:
        """Compares the server with what is remembered, and learns what became of an unknown change."""


@dataclass
class Folders:
    """Makes, renames and deletes folders below one of its own; a name is a folder's whole content here."""

    name: str
    there: dict[str, str] = field(default_factory=dict)  # id by name
    unknown: tuple[str, str | None, str | None] | None = None  # what, name before, name after
    count: int = 0

    def step(self, http: requests.Session, url: str) -> None:
        """One of three changes."""
        self.count += 1
        old = random.choice(sorted(self.there)) if self.there and random.random() < 0.5 else None
        new = None if old and random.random() < 0.4 else f"f{self.count}"
        self.unknown = ("folder", old, new)
        if old is None:
            made = http.post(f"{url}/folders", json={"path": f"/admin/{self.name}/{new}", "parents": True})
            made.raise_for_status()
            self.there[str(new)] = made.json()["id"]
        elif new is None:
            http.delete(f"{url}/nodes/{self.there[old]}").raise_for_status()
            del self.there[old]
        else:
            http.patch(f"{url}/nodes/{self.there[old]}", json={"name": new}).raise_for_status()
            self.there[new] = self.there.pop(old)
        self.unknown = None

    def check(self, http: requests.Session, url: str) -> None:
        """All names, with their ids."""
        found = children(http, url, f"/admin/{self.name}")
        if self.unknown is not None:
            _, old, new = self.unknown
            after = dict(self.there)
            moved = after.pop(old) if old else None
            if new is not None:
                after[new] = moved or found.get(new, "")
            assert found in (self.there, after)
            self.there, self.unknown = found, None
        assert found == self.there


def children(http: requests.Session, url: str, path: str) -> dict[str, str]:
    """Ids of the nodes in a folder by their names; none if it is not there."""
    answer = http.get(f"{url}/nodes", params={"path": path})
    found: dict[str, str] = {}
    at: dict[str, str] = {}
    while answer.status_code == 200:
        folder = f"{url}/nodes/{answer.json()['id']}/children"
        page = http.get(folder, params={"limit": "1000", **at}).json()
        found |= {node["name"]: node["id"] for node in page["nodes"]}
        if page["next"] is None:
            break
        at = {"cursor": page["next"]}
    return found


@dataclass
class Runs:
    """A run whose metrics and log grow: each batch and each part counts once, in its place."""

    name: str
    node_id: str = ""
    points: int = 0  # acknowledged
    log: bytes = b""
    is_unknown: bool = False

    def step(self, http: requests.Session, url: str) -> None:
        """One batch, or one part of the log; what was on its way at a kill is sent again first."""
        if not self.node_id:
            placement = {"folder": "/admin/default", "name": self.name}
            made = http.post(f"{url}/runs", json={"client_id": self.name, "placement": placement})
            made.raise_for_status()
            self.node_id = made.json()["node"]["id"]
        self.is_unknown = True
        batch = Batch(array("q", [self.points]), array("q", [NO_EPOCH]), array("q", [1]), {"x": array("d", [1.0])})
        sent = http.put(
            f"{url}/runs/{self.node_id}/metrics/train/{self.points}",
            params={"session": "s"},
            data=encode_batch(batch),
            headers={"Content-Type": "application/octet-stream"},
        )
        sent.raise_for_status()
        self.points += 1
        self.is_unknown = False
        part = b"line %d\n" % self.points
        http.put(f"{url}/runs/{self.node_id}/log", params={"offset": len(self.log)}, data=part).raise_for_status()
        self.log += part

    def check(self, http: requests.Session, url: str) -> None:
        """Steps from 0 on without a gap, and the log as it was sent."""
        if not self.node_id:
            return
        answer = http.get(f"{url}/runs/{self.node_id}/metrics/train", params={"limit": 100_000})
        steps = answer.json()["steps"] if answer.status_code == 200 else []
        assert steps == list(range(len(steps)))
        assert self.points <= len(steps) <= self.points + self.is_unknown
        self.points, self.is_unknown = len(steps), False
        log = http.get(f"{url}/runs/{self.node_id}/log").content
        assert log.startswith(self.log)
        assert log[len(self.log) :] in (b"", b"line %d\n" % self.points)
        self.log = log


def run_until_killed(server: Serving, loads: list[Load], headers: dict[str, str]) -> None:
    """Runs each load in a thread, and kills the server at a random moment."""

    def run(load: Load) -> None:
        with requests.Session() as http:
            http.headers.update(headers)
            try:
                while True:
                    load.step(http, f"{server.url}/api/v1")
            except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
                pass  # the latter between an answer's head and its body

    threads = [threading.Thread(target=run, args=(load,)) for load in loads]
    for thread in threads:
        thread.start()
    threads[0].join(random.uniform(0.02, LONGEST_LOAD_S))
    server.process.kill()
    for thread in threads:
        thread.join()


def test_killed_server_keeps_what_it_acknowledged(tmp_path: Path, database_url: str | None) -> None:
    loads: list[Load] = [Folders("load0"), Folders("load1"), Runs("run0"), Runs("run1")]
    headers: dict[str, str] = {}
    for _ in range(KILLS):
        with run_server(tmp_path / "data", database_url) as server:
            headers = headers or {"Authorization": f"Bearer {server.api_key}"}
            check_all(server, loads, headers)
            run_until_killed(server, loads, headers)
    with run_server(tmp_path / "data", database_url) as server:
        check_all(server, loads, headers)


def check_all(server: Serving, loads: list[Load], headers: dict[str, str]) -> None:
    """Compares all of the model with the server."""
    with requests.Session() as http:
        http.headers.update(headers)
        for load in loads:
            load.check(http, f"{server.url}/api/v1")

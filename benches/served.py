"""What the benches of uploads and loads share: a server, homes of clients, counts, and a table with targets."""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "server"), str(Path(__file__).parent)]

from harness import Serving, run_postgresql, run_server  # noqa: E402
from t9k import em  # noqa: E402
from t9k.em.client.connection import connected  # noqa: E402
from t9k.em.client.placement import Target  # noqa: E402
from t9k.em.client.session import Answer, Body, Request, Session  # noqa: E402
from t9k.em.transfer.progress import Report  # noqa: E402
from t9k.em.transfer.upload import upload_artifact  # noqa: E402


class Rows:
    """Figures of rounds, and what they should be at most."""

    def __init__(self, title: str, targets: dict[str, float]) -> None:
        """Knows the targets by row; a row without one is for information."""
        self._title, self._targets = title, targets
        self._figures: dict[str, list[float]] = {}

    def note(self, row: str, figure: float) -> None:
        """Adds a round's figure."""
        self._figures.setdefault(row, []).append(figure)

    def show(self, as_json: bool) -> None:
        """Prints minimum, median and target of each row."""
        if as_json:
            print(json.dumps({"bench": self._title, "targets": self._targets, "rows": self._figures}))
            return
        print(f"{self._title}: minimum, median, target")
        for row, figures in self._figures.items():
            median, target = statistics.median(figures), self._targets.get(row)
            verdict = "" if target is None else f"{target:10g} {'met' if median <= target else 'MISSED'}"
            print(f"  {row:52} {min(figures):12.3f} {median:12.3f} {verdict}")


def parser(description: str | None) -> ArgumentParser:
    """A parser with the options that all of these benches have."""
    made = ArgumentParser(description=description)
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--directory", default=None, help="where to work; default: the directory of temporary files")
    made.add_argument("--json", action="store_true")
    return made


@contextmanager
def workplace(options: Namespace) -> Iterator[None]:
    """A working directory that goes at the end."""
    os.environ |= {"EM_QUIET": "1", "EM_CAPTURE": "0"}
    with tempfile.TemporaryDirectory(prefix="em-bench-", dir=options.directory) as directory:
        os.chdir(directory)
        try:
            yield
        finally:
            os.chdir("/")


@contextmanager
def serving(name: str, *options: str, is_postgresql: bool = False) -> Iterator[Serving]:
    """A new server, to which this process is logged in; with a private PostgreSQL if that is wanted."""
    with ExitStack() as stack:
        url = stack.enter_context(run_postgresql()).format("postgres") if is_postgresql else None
        server = stack.enter_context(run_server(Path(name).absolute(), url, *options))
        em.login(server.url, server.api_key)
        try:
            yield server
        finally:
            em.logout()


def go_home(name: str) -> None:
    """A store and parent directories of their own from now on, as another machine has."""
    names = {"EM_STORE_DIR": "store", "EM_ARTIFACT_PARENT_DIR": "artifacts", "EM_RUN_PARENT_DIR": "runs"}
    names["XDG_CACHE_HOME"] = "cache"
    os.environ |= {variable: os.path.abspath(f"{name}/{place}") for variable, place in names.items()}


class Counted:
    """Requests of this process, and the bytes of their bodies and of the answers'."""

    def __init__(self) -> None:
        """Counts from now on."""
        self.requests = self.sent_bytes = self.received_bytes = 0
        send = Session._send

        def counting(session: Session, request: Request) -> Answer:
            self.requests += 1
            if (body := request.body) is not None:
                self.sent_bytes += len(body) if isinstance(body, bytes | Body) else body.seek(0, 2)
            answer = send(session, request)
            self.received_bytes += len(answer.body)
            return answer

        Session._send = counting  # type: ignore[method-assign]

    def reset(self) -> None:
        """From nothing again."""
        self.requests = self.sent_bytes = self.received_bytes = 0


def add(name: str, source: Path) -> tuple[em.Artifact, float]:
    """A new artifact of a directory, and the seconds that took."""
    began = time.perf_counter()
    artifact = em.create_artifact(name)
    artifact.add_dir(str(source))
    return artifact, time.perf_counter() - began


def upload(artifact: em.Artifact, folder: str) -> tuple[Report, float]:
    """Uploads an artifact: what was sent, and seconds."""
    began = time.perf_counter()
    report = upload_artifact(connected(), artifact, Target(folder, True, "new")).report
    return report, time.perf_counter() - began


def wait_until_hashed(server: Serving) -> None:
    """Until the server has hashed every new object itself."""
    while True:
        with rows_of(server) as database:
            (left,) = database.execute("SELECT count(*) FROM objects WHERE state = 'checking'").fetchone()
        if not left:
            return
        time.sleep(0.2)


@contextmanager
def rows_of(server: Serving) -> Iterator[sqlite3.Connection]:
    """The server's database, to be read."""
    database = sqlite3.connect(f"file:{server.data}/aistore.sqlite3?mode=ro", uri=True)
    try:
        yield database
    finally:
        database.close()


def size_of(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())

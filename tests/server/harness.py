"""Accounts and servers for tests."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from t9k.aistore.accounts.caller import Caller, authenticate
from t9k.aistore.accounts.users import add_key, add_user
from t9k.aistore.db import Database


@dataclass(frozen=True)
class Account:
    """A user with a key."""

    name: str
    key: str
    caller: Caller

    @property
    def headers(self) -> dict[str, str]:
        """What authenticates a request."""
        return {"Authorization": f"Bearer {self.key}"}


def make_account(database: Database, name: str, role: str = "user") -> Account:
    """A new user with a key of all scopes that the role allows."""
    add_user(database, name, role)
    scopes = ("read", "write", "admin") if role == "admin" else ("read", "write")
    key = add_key(database, name, "test", scopes).text
    return Account(name, key, authenticate(database, key))


@contextlib.contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """What is sent to the database meanwhile."""
    found: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        found.append(statement)

    sa.event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        sa.event.remove(database.engine, "before_cursor_execute", note)


@dataclass
class Serving:
    """A server in a process of its own."""

    url: str
    user: str
    api_key: str
    process: subprocess.Popen[bytes]
    data: Path


@contextlib.contextmanager
def run_server(
    data: Path, database_url: str | None = None, *options: str, log: Path | None = None
) -> Iterator[Serving]:
    """Starts `aistore serve` on a free port, and stops it with SIGTERM. `log` gets what it says on standard error."""
    ready = data.with_name(f"{data.name}-ready.json")
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "t9k.aistore", "serve", "--data", str(data), "--port", "0"]
    command += ["--ready-file", str(ready), *options]
    if database_url is not None:
        command += ["--database-url", database_url]
    with open(log, "ab") if log is not None else contextlib.nullcontext() as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
    try:
        for _ in range(3000):  # a minute in which this process runs, however long the machine stands still
            if ready.exists() or process.poll() is not None:
                break
            time.sleep(0.02)
        if not ready.exists():
            raise RuntimeError(f"the server did not start: exit {process.poll()}")
        document = json.loads(ready.read_text())
        yield Serving(document["url"], document["user"], document["api_key"] or "", process, data)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        process.communicate()


def postgresql_tool(name: str) -> str | None:
    """The path of a program of PostgreSQL's newest version here; None if it is not installed."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(versions[-1]) if versions else shutil.which(name)


@contextlib.contextmanager
def run_postgresql(*settings: str) -> Iterator[str]:
    """A private cluster on a socket, with settings such as ``fsync=off``: its URL, ``{}`` for a database's name."""
    initdb, postgres, is_ready = (postgresql_tool(name) for name in ("initdb", "postgres", "pg_isready"))
    assert initdb is not None
    assert postgres is not None
    assert is_ready is not None
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    as_user: list[str] = []
    user = getpass.getuser()
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(directory, "postgres", "postgres")
        as_user, user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"], "postgres"
    make = [*as_user, initdb, "-A", "trust", "-E", "UTF8", "--locale=C", "-U", user, "-D", str(directory / "data")]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=directory)
    given = [f"unix_socket_directories={directory}", "listen_addresses=", "max_connections=200", *settings]
    options = [part for setting in given for part in ("-c", setting)]
    command = [*as_user, postgres, "-D", str(directory / "data"), *options]
    with open(directory / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
    try:
        ready = [is_ready, "-q", "-h", str(directory)]
        while subprocess.run(ready, check=False).returncode:
            if process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: {(directory / 'log').read_text()}")
            time.sleep(0.05)
        yield f"postgresql://{user}@/{{}}?host={directory}"
    finally:
        process.send_signal(signal.SIGQUIT)  # at once: nobody needs what is in it
        process.wait(60)
        shutil.rmtree(directory)


@contextlib.contextmanager
def new_schema(cluster: str) -> Iterator[str]:
    """A schema of its own in what `run_postgresql` has started: the URL of an empty database."""
    name = f"test_{os.urandom(6).hex()}"
    admin = sa.create_engine(cluster.format("postgres").replace("postgresql:", "postgresql+psycopg:"))
    with admin.begin() as connection:  # a tenth of the time that a database takes
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    yield f"{cluster.format('postgres')}&options=-csearch_path%3D{name}"
    with admin.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    admin.dispose()

"""Databases of both kinds, an app in this process, and a server in one of its own.

Every test that takes `database`, `services`, `api` or `serving` runs on SQLite and on PostgreSQL. PostgreSQL is the
system's: a private cluster on a socket, started once. Where it is not installed these tests are skipped, and in CI
that is an error.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from harness import Account, Serving, make_account, run_server
from starlette.testclient import TestClient
from t9k.aistore.api.app import make_app
from t9k.aistore.db import Database
from t9k.aistore.services import Services, open_services
from t9k.aistore.settings import Settings


def _postgresql_tool(name: str) -> str | None:
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    return str(versions[-1]) if versions else shutil.which(name)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a private cluster, without a database's name."""
    initdb, pg_ctl = _postgresql_tool("initdb"), _postgresql_tool("pg_ctl")
    if initdb is None or pg_ctl is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed, and CI must not skip it")
        pytest.skip("PostgreSQL is not installed")
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path must be short
    data = directory / "data"
    as_user: list[str] = []
    user = getpass.getuser()
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        shutil.chown(directory, "postgres", "postgres")
        as_user, user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"], "postgres"
    run = {"check": True, "stdout": subprocess.DEVNULL, "cwd": directory}
    subprocess.run([*as_user, initdb, "-A", "trust", "-E", "UTF8", "--locale=C", "-U", user, "-D", data], **run)
    options = f"-k {directory} -c listen_addresses='' -c fsync=off -c max_connections=200"
    subprocess.run([*as_user, pg_ctl, "-w", "-s", "-D", data, "-l", directory / "log", "-o", options, "start"], **run)
    try:
        yield f"postgresql://{user}@/{{}}?host={directory}"
    finally:
        subprocess.run([*as_user, pg_ctl, "-s", "-m", "immediate", "-D", data, "stop"], **run)
        shutil.rmtree(directory)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | None]:
    """A database of its own for one test, a schema in PostgreSQL's; None is SQLite in the data directory."""
    if request.param == "sqlite":
        yield None
        return
    base = request.getfixturevalue("postgresql")
    name = f"test_{os.urandom(6).hex()}"
    admin = sa.create_engine(base.format("postgres").replace("postgresql:", "postgresql+psycopg:"))
    with admin.begin() as connection:  # a tenth of the time that a database takes
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    yield f"{base.format('postgres')}&options=-csearch_path%3D{name}"
    with admin.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    admin.dispose()


@pytest.fixture
def settings(tmp_path: Path, database_url: str | None) -> Settings:
    """Settings of a server in the test's directory."""
    return Settings(data_dir=tmp_path / "aistore", port=0, database_url=database_url)


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """Services of this process; the background does not run unless a test starts it."""
    opened = open_services(settings)
    yield opened
    opened.close()


@pytest.fixture
def database(services: Services) -> Database:
    """The database of `services`."""
    return services.database


@pytest.fixture
def ada(database: Database) -> Account:
    """A user."""
    return make_account(database, "ada")


@pytest.fixture
def bob(database: Database) -> Account:
    """Another user."""
    return make_account(database, "bob")


@pytest.fixture
def root(database: Database) -> Account:
    """An administrator."""
    return make_account(database, "root", "admin")


@pytest.fixture
def api(services: Services) -> Iterator[TestClient]:
    """The app, called in this process, without its background jobs."""
    client = TestClient(make_app(services), raise_server_exceptions=False)
    yield client
    client.close()


@pytest.fixture
def serving(tmp_path: Path, database_url: str | None) -> Iterator[Serving]:
    """A server in a process of its own, with an administrator's key."""
    with run_server(tmp_path / "served", database_url) as server:
        yield server

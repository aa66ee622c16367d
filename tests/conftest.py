"""Databases of both kinds: a test that takes `database_url` runs on SQLite and on PostgreSQL.

PostgreSQL is the system's: a private cluster on a socket, started once. Where it is not installed these tests are
skipped, and in CI that is an error.
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
    import sqlalchemy as sa  # tests of the client alone need none

    name = f"test_{os.urandom(6).hex()}"
    admin = sa.create_engine(base.format("postgres").replace("postgresql:", "postgresql+psycopg:"))
    with admin.begin() as connection:  # a tenth of the time that a database takes
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    yield f"{base.format('postgres')}&options=-csearch_path%3D{name}"
    with admin.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    admin.dispose()

"""Databases of both kinds and disks that are soon full.

A test that takes `database_url` runs on SQLite and on PostgreSQL. PostgreSQL is the system's: a private cluster on a
socket, started once. Where it is not installed these tests are skipped, and in CI that is an error.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a private cluster, without a database's name."""
    from harness import postgresql_tool, run_postgresql  # tests of the client alone need none

    if postgresql_tool("initdb") is None:
        if os.environ.get("CI"):
            pytest.fail("PostgreSQL is not installed, and CI must not skip it")
        pytest.skip("PostgreSQL is not installed")
    with run_postgresql("fsync=off") as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str | None]:
    """A database of its own for one test, a schema in PostgreSQL's; None is SQLite in the data directory."""
    if request.param == "sqlite":
        yield None
        return
    from harness import new_schema

    with new_schema(request.getfixturevalue("postgresql")) as url:
        yield url


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system in memory of so many MiB, below the test's directory."""
    with ExitStack() as mounted:

        def make(mib: int) -> Path:
            path = tmp_path / f"{mib} MiB"
            path.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path)]
            if subprocess.run(command, check=False).returncode:
                if os.environ.get("CI"):
                    pytest.fail("no file system can be mounted, and CI must not skip it")
                pytest.skip("no file system can be mounted here, which takes root")
            mounted.callback(subprocess.run, ["umount", str(path)], check=True)
            return path

        yield make

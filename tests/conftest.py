"""Databases of both kinds, disks that are soon full, and file systems of several kinds.

A test that takes `database_url` runs on SQLite and on PostgreSQL. PostgreSQL is the system's: a private cluster on a
socket, started once. Where it is not installed these tests are skipped, and in CI that is an error.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from lacking import lacks, need_strace


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a private cluster, without a database's name."""
    from harness import postgresql_tool, run_postgresql  # tests of the client alone need none

    if postgresql_tool("initdb") is None:
        lacks("PostgreSQL is not installed")
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
def strace() -> None:
    need_strace()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system in memory of so many MiB, below the test's directory."""
    with ExitStack() as mounted:

        def make(mib: int) -> Path:
            path = tmp_path / f"{mib} MiB"
            path.mkdir()
            command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(path)]
            if subprocess.run(command, check=False).returncode:
                lacks("no file system can be mounted here, which takes root")
            mounted.callback(subprocess.run, ["umount", str(path)], check=True)
            return path

        yield make


MAKE = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "btrfs of few links": ["mkfs.btrfs", "-q", "-O", "^extref"],
    "ext4": ["mkfs.ext4", "-q"],
}
"""The second kind of btrfs keeps all names of a file in one directory in 16 kB."""


@pytest.fixture
def file_system(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a file system of a kind of `MAKE` in a file, and mounts it below the test's directory."""
    sbin = {"PATH": f"{os.environ['PATH']}:/sbin:/usr/sbin"}
    with ExitStack() as mounted:

        def make(kind: str) -> Path:
            command = MAKE[kind]
            if os.geteuid():
                lacks("only root can mount")
            if shutil.which(command[0], path=sbin["PATH"]) is None:
                lacks(f"{command[0]} is missing")
            image, point = tmp_path / f"{kind} image", tmp_path / kind
            with image.open("wb") as file:
                file.truncate(400 << 20)
            point.mkdir()
            subprocess.run([*command, str(image)], check=True, env=os.environ | sbin, stdout=subprocess.DEVNULL)
            mount = ["mount", "-o", "loop", str(image), str(point)]
            done = subprocess.run(mount, capture_output=True, text=True, check=False)
            if done.returncode:
                known = Path("/proc/filesystems").read_text().split()
                lacks(done.stderr if kind.split()[0] in known else f"the kernel has no {kind}")
            mounted.callback(subprocess.run, ["umount", str(point)], check=True)
            return point

        yield make

"""EM_THREADS: how many threads a call really uses, and which values are refused."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lacking import lacks, need_strace
from t9k import em
from t9k.em.errors import InvalidInputError

SCRIPT = """
from t9k.em import _engine
_engine.create_artifact("artifact")
_engine.add_dir("store", "artifact", "source", "x")
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Path("source").mkdir()


def most_alive(threads: str | None, *wrapper: str) -> int:
    """The most threads beside Python's that live at once in an add of many files, by the kernel's own word."""
    for number in range(300):
        Path("source", str(number)).write_bytes(number.to_bytes(4))
    need_strace()
    environment = {name: value for name, value in os.environ.items() if name != "EM_THREADS"}
    environment |= {"EM_THREADS": threads} if threads else {}
    trace = ["strace", "-f", "-qq", "-e", "trace=clone,clone3,exit", "-o", "trace", sys.executable, "-c", SCRIPT]
    subprocess.run([*wrapper, *trace], check=True, timeout=120, env=environment)
    alive = most = 0
    for line in Path("trace").read_text().splitlines():
        if re.search(r"clone3?\b.* = [1-9]\d*$", line):
            alive += 1
            most = max(most, alive)
        elif " exit(" in line:
            alive -= 1
    assert alive == 0, "a thread outlives the call"
    return most


def assert_workers(most: int, workers: int) -> None:
    # The one that runs the call may wait for the others.
    assert most - workers in ((0,) if workers == 1 else (0, 1))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_as_many_threads_as_it_says(threads: int) -> None:
    assert_workers(most_alive(str(threads)), threads)


def test_without_it_as_many_as_the_process_may_use() -> None:
    assert_workers(most_alive(None), len(os.sched_getaffinity(0)))


def test_as_many_as_there_are_processors_it_may_run_on() -> None:
    one = min(os.sched_getaffinity(0))
    assert_workers(most_alive(None, "taskset", "--cpu-list", str(one)), 1)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A new one whose processor time can be bounded, of either version."""
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/cpu")):
        made = root / f"em-test-{os.getpid()}"
        try:
            made.mkdir()
        except OSError:
            continue
        if any(Path(made, name).exists() for name in ("cpu.max", "cpu.cfs_quota_us")):
            yield made
            made.rmdir()
            return
        made.rmdir()
    lacks("no cgroup can be made here")


# A part of a processor gives no thread, except the first.
@pytest.mark.parametrize(("percent", "workers"), [(50, 1), (150, 1), (200, 2)])
def test_as_many_as_the_quota_of_its_cgroup_allows(percent: int, workers: int, cgroup: Path) -> None:
    if Path(cgroup, "cpu.max").exists():
        Path(cgroup, "cpu.max").write_text(f"{1000 * percent} 100000")
    else:
        Path(cgroup, "cpu.cfs_quota_us").write_text(str(1000 * percent))
    join = f'echo $$ > {cgroup}/cgroup.procs && exec "$@"'
    allowed = len(os.sched_getaffinity(0))
    assert_workers(most_alive(None, "sh", "-c", join, "sh"), min(workers, allowed))


@pytest.mark.parametrize("value", ["0", "-1", "1025", "two", "", " 2", "2.0", "99999999999999999999"])
def test_what_is_no_number_of_threads_is_refused_and_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("source/file").write_text("text")
    artifact = em.create_artifact("a")
    monkeypatch.setenv("EM_THREADS", value)
    with pytest.raises(InvalidInputError, match=re.escape(f'EM_THREADS is "{value}"')) as caught:
        artifact.add_dir("source")
    assert caught.value.hint == "use a number from 1 to 1024"
    monkeypatch.delenv("EM_THREADS")
    assert artifact.to_dict()["objects"] == {}
    artifact.add_dir("source")


def test_many_more_threads_than_files_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("source/file").write_text("text")
    monkeypatch.setenv("EM_THREADS", "1024")
    artifact = em.create_artifact("a")
    artifact.add_dir("source")
    assert Path(artifact.local, "source/file").read_text() == "text"

"""Children that are stopped or hindered by `strace` at a chosen system call."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import re
import select
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from t9k import em
from t9k.em import _engine

CALLS = (
    "openat,write,pwrite64,fallocate,ftruncate,utimensat,fchmod,rename,renameat,renameat2,link,linkat,symlink,"
    "symlinkat,unlink,unlinkat,mkdir,mkdirat,copy_file_range,ioctl"
)
POINTS = int(os.environ.get("EM_FAULT_POINTS", "25"))
T = TypeVar("T")
PR_SET_PTRACER, ANY = 0x59616D61, ctypes.c_ulong(-1)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@dataclass
class Ended:
    """How a child ended: `error` is the class of what it raised."""

    signal: int
    error: str | None
    message: str
    log: str

    @property
    def ok(self) -> bool:
        return not self.signal and self.error is None


class Child:
    """A forked process that waits for `go` and then runs `work`; its result comes back without a system call."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._shared = mmap.mmap(-1, 1 << 16)
        wait, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY, 0, 0, 0)
                os.close(self._go)
                select.select([wait], [], [])
                result: dict[str, str | None] = {"error": None, "message": ""}
                try:
                    work()
                except BaseException as error:
                    bases = [base.__name__ for base in type(error).__mro__]
                    result = {"error": type(error).__name__, "message": f"{bases} {traceback.format_exc()}"}
                text = json.dumps(result).encode()[: 1 << 16]
                self._shared[: len(text)] = text
            finally:
                os._exit(0)
        os.close(wait)

    def go(self) -> None:
        os.write(self._go, b"x")
        os.close(self._go)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def join(self, at_stop: Callable[[], object] | None = None) -> Ended:
        """Waits for its end. With `at_stop`, that is called when a signal has stopped all threads, and they go on."""
        while os.WIFSTOPPED(status := os.waitpid(self.pid, os.WUNTRACED if at_stop else 0)[1]):
            if at_stop:
                at_stop()
            self.kill(signal.SIGCONT)
        text = bytes(self._shared).rstrip(b"\0")
        result = json.loads(text) if text else {"error": None, "message": ""}
        return Ended(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, result["error"], result["message"], "")


def run(work: Callable[[], object]) -> Ended:
    child = Child(work)
    child.go()
    return child.join()


def traced(work: Callable[[], object], *options: str, at_stop: Callable[[], object] | None = None) -> Ended:
    """Run `work` in a child under strace; `at_stop` is for signals that it injects to stop it."""
    child = Child(work)
    log = Path("strace.log").absolute()
    tracer = subprocess.Popen(
        ["strace", "-f", "-q", "-o", str(log), *options, "-p", str(child.pid)],
        stderr=subprocess.PIPE,
    )
    status = Path(f"/proc/{child.pid}/status")
    while "TracerPid:\t0\n" in status.read_text():
        if tracer.poll() is not None:
            child.kill()
            child.join()
            pytest.fail(f"strace cannot attach: {tracer.stderr.read().decode() if tracer.stderr else ''}")
        time.sleep(0.002)
    child.go()
    ended = child.join(at_stop)
    tracer.communicate()
    ended.log = log.read_text(errors="replace")
    return ended


def points(log: str, wanted: Callable[[str, str], bool] = lambda call, line: True) -> Iterator[tuple[str, int]]:
    """Every (call, when) of a log; strace counts `when` for each thread."""
    seen: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, int], None] = {}
    for line in log.splitlines():
        if match := re.match(r"(\d+) +(\w+)\(", line):
            thread, call = match.groups()
            count = seen[thread, call] = seen.get((thread, call), 0) + 1
            if wanted(call, line):
                found[call, count] = None
    yield from found


def some(every: Sequence[T], count: int) -> list[T]:
    """So many of them from all over, and always the same; all in a long run."""
    return random.Random(1).sample(every, min(count, len(every)))


def contents(artifact: em.Artifact) -> dict[str, bytes]:
    """What a user sees at the paths of the entries."""
    return {
        entry["path"]: Path(artifact.local, entry["path"]).read_bytes()
        for entry in artifact.objects
        if entry["type"] == "file"
    }


def tree(source: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(source).rglob("*")) if path.is_file()}


def problems(artifact: em.Artifact | None = None) -> list[Any]:
    return list(_engine.verify(".em/store", artifact.local if artifact else None)["problems"])


def leftovers(artifact: em.Artifact) -> list[str]:
    """Temporary files, leases, intents and old manifests."""
    found = [str(path) for path in Path(".em/store").rglob(".tmp-*")]
    found += [str(path) for name in ("leases", "trash") for path in Path(".em/store", name).iterdir()]
    inner = Path(artifact.local, ".artifact")
    found += [str(path) for path in inner.iterdir() if path.name.startswith((".tmp-", "intent-", "undo-"))]
    if len(list(inner.glob("manifest-*"))) != 1:
        found.append("manifests")
    return found


def without_entry(artifact: em.Artifact) -> list[str]:
    """Files and directories of the artifact's directory that no entry names."""
    paths = [str(path.relative_to(artifact.local)) for path in Path(artifact.local).rglob("*")]
    named = {entry["path"] for entry in artifact.objects}
    above = {str(parent) for path in named for parent in Path(path).parents}
    return [path for path in paths if path not in named | above and path.split("/")[0] != ".artifact"]


def is_what_the_manifest_says(artifact: em.Artifact) -> None:
    """Bytes, modes and directories."""
    assert problems(artifact) == []
    for entry in artifact.objects:
        path = Path(artifact.local, entry["path"])
        if entry["type"] == "file":
            assert bool(path.stat().st_mode & 0o100) == (entry["executable"] == "True"), path
        else:
            assert path.is_dir(), path


def whole_files(artifact_dir: str, *states: dict[str, bytes]) -> None:
    """At each path are the bytes of one of the states, also where a crash has left them."""
    for path in set.intersection(*map(set, states)):
        assert Path(artifact_dir, path).read_bytes() in [state[path] for state in states], path


def check_after(artifact_dir: str, before: dict[str, bytes], after: dict[str, bytes], again: str) -> None:
    """After a crash: the artifact is what it was or what it was to be; the store is right; all of it works on."""
    artifact = em.load_artifact(artifact_dir)
    now = contents(artifact)
    assert now in (before, after)
    is_what_the_manifest_says(artifact)
    assert [problem for problem in problems() if problem["kind"] != "stray"] == []
    artifact.add_dir(again)
    assert contents(artifact) == now | tree(again)
    _engine.gc(".em/store", 0, False)
    assert leftovers(artifact) == []
    assert without_entry(artifact) == []
    is_what_the_manifest_says(artifact)
    assert problems() == []

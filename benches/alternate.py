"""Alternating measurements: each round runs every contender once, each on a fresh target."""

from __future__ import annotations

import compileall
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROUNDS = 7


def compile_package() -> None:
    """Leaves bytecode beside our modules, as an installation does, also where PYTHONDONTWRITEBYTECODE is set."""
    import t9k.em

    compileall.compile_dir(os.path.dirname(os.path.dirname(t9k.em.__file__)), quiet=2)


@contextmanager
def workplace() -> Iterator[Path]:
    """A directory of its own, with the store and the stat cache below it."""
    before, cwd = dict(os.environ), os.getcwd()
    with tempfile.TemporaryDirectory(prefix="em-bench-") as directory:
        os.environ |= {"XDG_CACHE_HOME": os.path.join(directory, "cache"), "EM_QUIET": "1", "EM_CAPTURE": "0"}
        os.chdir(directory)
        try:
            yield Path(directory)
        finally:
            os.chdir(cwd)
            os.environ.clear()
            os.environ |= before


class FreshMemory:
    """Memory for each run that the host has just mapped.

    A virtual machine gives free memory back to its host, and what is touched first afterwards costs from tenths of a
    second to seconds for each GiB, whoever touches it. So all free memory is filled with pages of a file full of holes,
    which the kernel takes back whenever it wants some, and only what a run needs is given free just before it.
    """

    _LEFT_BYTES = 700 << 20
    _PIECE_BYTES = 64 << 20
    # The kernel looks for memory to give back about two seconds after some became free.
    _QUIET_S = 2.5

    def __init__(self) -> None:
        self._holes = Path("memory")
        self._total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        self._filled = 0
        with self._holes.open("wb") as holes:
            holes.truncate(self._total)

    def make_free(self, size_bytes: int) -> None:
        """Waits for the disk, then leaves about this much memory free, all of it mapped."""
        os.sync()
        with self._holes.open("rb", buffering=0) as holes:
            holes.seek(self._filled)
            buffer = bytearray(self._PIECE_BYTES)
            while free_bytes() > self._LEFT_BYTES + self._PIECE_BYTES and self._filled < self._total:
                self._filled += holes.readinto(buffer) or self._PIECE_BYTES
            time.sleep(self._QUIET_S)
            start = max(0, self._filled - size_bytes)
            os.posix_fadvise(holes.fileno(), start, self._filled - start, os.POSIX_FADV_DONTNEED)
            self._filled = start


def free_bytes() -> int:
    """Memory that holds nothing, not even a page of a file."""
    with open("/proc/meminfo") as lines:
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemFree:"))


def alternate(
    contenders: dict[str, Callable[[int], object]],
    rounds: int = ROUNDS,
    before_each: Callable[[str, int], object] = lambda name, turn: None,
    after_each: Callable[[str, int], object] = lambda name, turn: None,
    fresh_bytes: int = 0,
) -> dict[str, list[float]]:
    """Seconds of every contender in every round. With `fresh_bytes`, each begins with nothing left to be written to the
    disk, with that much free memory of the same kind, and awake.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    memory = FreshMemory() if fresh_bytes else None
    for turn in range(rounds):
        for name, work in contenders.items():
            before_each(name, turn)
            if memory:
                memory.make_free(fresh_bytes)
                wake_up()
            began = time.perf_counter()
            work(turn)
            seconds[name].append(time.perf_counter() - began)
            after_each(name, turn)
    return seconds


def wake_up() -> None:
    """Some milliseconds of work. After a pause the first ones of any work, even without a system call, can take tens of
    milliseconds of processor time on a virtual machine; whoever adds a checkpoint has trained until then.
    """
    memory = bytearray(8 << 20)
    for _ in range(2):
        for place in range(0, len(memory), 4096):
            memory[place] += 1
        sum(range(20_000))


def touch(size_bytes: int) -> None:
    """Makes the machine map this much memory, and frees it: enough where a run needs little."""
    memory = b"\1" * size_bytes
    del memory


def report(title: str, seconds: dict[str, list[float]], baseline: str, as_json: bool) -> None:
    """Prints minimum, median and their ratios to the baseline's."""
    rows = {
        name: {
            "min_s": round(min(times), 4),
            "median_s": round(statistics.median(times), 4),
            "min_ratio": round(min(times) / min(seconds[baseline]), 3),
            "median_ratio": round(statistics.median(times) / statistics.median(seconds[baseline]), 3),
        }
        for name, times in seconds.items()
    }
    if as_json:
        print(json.dumps({"bench": title, "baseline": baseline, "rounds": len(seconds[baseline]), "rows": rows}))
        return
    print(f"{title}: ratios to {baseline}")
    for name, row in rows.items():
        print(f"  {name:24} min {row['min_s']:8.3f} s {row['min_ratio']:7.3f}x   median {row['median_ratio']:7.3f}x")


def remove(*paths: str) -> None:
    """Removes trees."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)

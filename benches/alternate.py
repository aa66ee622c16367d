"""Alternating measurements: each round runs every contender once, each on a fresh target."""

from __future__ import annotations

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


def alternate(
    contenders: dict[str, Callable[[int], object]],
    rounds: int = ROUNDS,
    before_each: Callable[[str, int], object] = lambda name, turn: None,
    touch_bytes: int = 0,
) -> dict[str, list[float]]:
    """Seconds of every contender in every round.

    Targets stay until the end: deleting inodes slows creating them. Before each run `touch_bytes` of memory are
    touched and freed: a virtual machine that gave memory back pays for the first touch, whoever it is.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(rounds):
        for name, work in contenders.items():
            before_each(name, turn)
            touch(touch_bytes)
            began = time.perf_counter()
            work(turn)
            seconds[name].append(time.perf_counter() - began)
    return seconds


def touch(size_bytes: int) -> None:
    """Makes the machine map this much memory, and frees it."""
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

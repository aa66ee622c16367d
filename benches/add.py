"""`add_dir` against `cp -r`: a checkpoint and many small files, new, again, and with new times.

It works in TMPDIR. On an ext4 where many files were deleted in the last minutes, those that are created say little:
`cp -r` of 20,000 took 0.7 s on a fresh one and 15 s on one that had just lost as many.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from alternate import ROUNDS, alternate, remove, report, workplace
from t9k import em
from t9k.em import _engine

# What no later contender needs: there is no room for all rounds on every disk.
MADE_LARGE = {"cp -r": "copy-r-*", "without tables": "*-bare-*", "known start": "*-new-*"}


def checkpoint(directory: Path, size_bytes: int, files: int) -> None:
    """Safetensors files of BF16 weights: the upper halves of normal floats."""
    import numpy as np
    from safetensors.numpy import save_file

    directory.mkdir()
    numbers = np.random.default_rng(0)
    columns = 4096 if size_bytes > 1 << 28 else 256
    tensors = max(1, size_bytes // files // (2 * columns * columns))
    for index in range(files):
        weights = {
            f"layers.{i}.weight": (
                numbers.standard_normal((columns, columns), dtype=np.float32).view(np.uint32) >> 16
            ).astype(np.uint16)
            for i in range(tensors)
        }
        save_file(weights, directory / f"model-{index}.safetensors")


def next_checkpoint(before: Path, after: Path) -> None:
    """Other weights behind the first MiB: a long header, or a first tensor that is frozen."""
    import numpy as np

    after.mkdir()
    for path in before.iterdir():
        data = np.fromfile(path, np.uint8)
        data[1 << 20 :] ^= 1
        data.tofile(after / path.name)


def small_files(directory: Path, count: int) -> None:
    """Files of 4 to 14 kB, a thousand to a directory."""
    numbers = random.Random(0)
    for index in range(count):
        path = directory / str(index // 1000)
        path.mkdir(parents=True, exist_ok=True)
        (path / str(index)).write_bytes(numbers.randbytes(numbers.randint(4000, 14000)))


def read(path: Path) -> None:
    """Brings a file into the page cache."""
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(1 << 20)
        while file.readinto(buffer):
            pass


def add(source: str, turn: str, store: str) -> None:
    os.environ["EM_STORE_DIR"] = f"store-{store}"
    os.environ["EM_ARTIFACT_PARENT_DIR"] = f"artifacts-{store}-{turn}"
    em.create_artifact("a").add_dir(source)


def run(arguments: argparse.Namespace) -> None:
    def copy(flags: str):
        return lambda turn: subprocess.run(["cp", flags, "source", f"copy{flags}-{turn}"], check=True)

    def new(turn: int) -> None:
        os.environ["XDG_CACHE_HOME"] = os.path.abspath(f"cache-{turn}")
        add("source", str(turn), f"new-{turn}")

    def without_tables(turn: int) -> None:
        os.environ["EM_BENCH_NO_CHUNK_TABLES"] = "1"
        os.environ["XDG_CACHE_HOME"] = os.path.abspath(f"cache-bare-{turn}")
        add("source", str(turn), f"bare-{turn}")
        del os.environ["EM_BENCH_NO_CHUNK_TABLES"]

    def again(turn: int) -> None:
        os.environ["XDG_CACHE_HOME"] = os.path.abspath(f"cache-{turn}")
        add("source", f"{turn}-again", f"new-{turn}")

    def touched(turn: int) -> None:
        os.environ["XDG_CACHE_HOME"] = os.path.abspath(f"cache-{turn}")
        add("source", f"{turn}-touched", f"new-{turn}")

    def known_start(turn: int) -> None:
        os.environ["XDG_CACHE_HOME"] = os.path.abspath(f"cache-{turn}")
        add("next", f"{turn}-next", f"new-{turn}")

    def hashed(turn: int) -> None:
        for path in sorted(Path("source").rglob("*.safetensors")):
            _engine.hash_file(str(path))

    def prepare(name: str, turn: int) -> None:
        for path in Path("next" if name == "known start" else "source").rglob("*"):
            if path.is_file():
                if name == "new times":
                    os.utime(path)
                read(path)

    def forget(name: str, turn: int) -> None:
        if name in MADE_LARGE:
            remove(*map(str, Path().glob(MADE_LARGE[name])))

    kinds = {"1 file": (1, 0), "4 files": (4, 0), "small files": (0, arguments.files)}
    for kind, (large, small) in kinds.items():
        if kind not in arguments.kinds:
            continue
        with workplace():
            source = Path("source")
            if large:
                checkpoint(source, arguments.size, large)
                next_checkpoint(source, Path("next"))
            else:
                small_files(source, small)
            for path in source.rglob("*"):
                if path.is_file():
                    os.utime(path, (1_700_000_000, 1_700_000_000))
            # The racy rule: a file must be older than the slack before its digest is remembered.
            time.sleep(arguments.settle)
            contenders = {"cp -r": copy("-r"), "new": new, "again": again}
            if large:
                contenders |= {"without tables": without_tables, "hash alone": hashed, "new times": touched}
                contenders |= {"known start": known_start}
            else:
                contenders |= {"cp -rl": copy("-rl")}
            contenders = {name: work for name, work in contenders.items() if name in (arguments.work or contenders)}
            needed = 3 * arguments.size // 2 if large else 50_000 * small
            seconds = alternate(
                contenders,
                arguments.rounds,
                prepare,
                # Small ones stay: ext4 creates files many times slower while deleted inodes are fresh.
                forget if large else lambda name, turn: None,
                fresh_bytes=needed if arguments.settle else 0,
            )
            report(kind, seconds, "cp -r", arguments.json)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2_100_000_000, help="bytes of the checkpoint")
    parser.add_argument("--files", type=int, default=20_000, help="number of small files")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--settle",
        type=float,
        default=2.5,
        help="seconds before the first round; 0: no waiting, any memory",
    )
    parser.add_argument("--kinds", nargs="+", default=["1 file", "4 files", "small files"])
    parser.add_argument("--work", nargs="+", help="of the rows only these, such as 'cp -r' new again")
    parser.add_argument("--json", action="store_true")
    run(parser.parse_args())

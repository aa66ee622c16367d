"""What an add reads and writes of files, and on which threads: counted by strace."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import oracle
import pytest
from safetensors.numpy import save_file
from t9k.em import _engine

MIB = 1 << 20
READS, WRITES = ("read", "pread64", "readv", "preadv"), ("write", "pwrite64", "writev", "pwritev")
# What the chunker reads of a new object to see its format, beside the format's own index.
PROBE_BYTES = 10
COPIES = ("copy_file_range", "sendfile", "splice")


pytestmark = pytest.mark.usefixtures("strace")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Traced:
    """Bytes that each path was read and written with, and the threads that read it."""

    def __init__(self, script: str, *arguments: str, threads: int = 2, slowly: bool = False) -> None:
        shutil.rmtree("trace", ignore_errors=True)
        Path("trace").mkdir()
        # A file for each thread, so that no line is in two pieces; a thread that waits lets another one take its turn.
        command = ["strace", "-ff", "-qq", "-y", "-s0", "-otrace/thread", "-e", ",".join(READS + WRITES + COPIES)]
        command += ["--inject=pread64:delay_enter=2ms"] if slowly else []
        environment = os.environ | {"EM_THREADS": str(threads), "EM_CAPTURE": "0"}
        script = "import sys\nfrom t9k import em\n" + script
        subprocess.run([*command, sys.executable, "-c", script, *arguments], check=True, timeout=120, env=environment)
        self.read: Counter[str] = Counter()
        self.written: Counter[str] = Counter()
        self.copied: Counter[str] = Counter()
        self.threads: dict[str, set[str]] = {}
        for log in Path("trace").iterdir():
            for line in log.read_text(errors="replace").splitlines():
                if found := re.match(r"(\w+)\(\d+<([^>]*)>.* = (\d+)", line):
                    call, path, count = found[1], found[2], int(found[3])
                    (self.read if call in READS else self.written if call in WRITES else self.copied)[path] += count
                    self.threads.setdefault(path, set()).add(log.suffix)

    def read_of(self, source: Path) -> int:
        assert not self.copied[str(source.absolute())]
        return self.read[str(source.absolute())]

    def written_below(self, directory: str) -> int:
        return sum(count for path, count in self.written.items() if f"/store/{directory}/" in path)

    def read_below(self, directory: str) -> int:
        return sum(count for path, count in self.read.items() if f"/store/{directory}/" in path)


ADD_EACH = "for source in sys.argv[1:]: em.create_artifact(source.replace('/', '-')).add_dir(source)"


def sketch_bytes(size: int) -> int:
    return sum(length for _, length in oracle.sketch_places(size))


def checkpoint(path: Path, size: int) -> bytearray:
    """Eight layers of BF16 weights, the last one in the rest of `size`."""
    path.parent.mkdir()
    words = np.random.default_rng(0).integers(0, 1 << 16, size // 2 - 200, np.uint16)
    save_file({f"layer-{index}": part for index, part in enumerate(np.array_split(words, 8))}, path)
    return bytearray(path.read_bytes())


def other(data: bytearray, start: int, end: int) -> bytearray:
    """The same with other bytes in between."""
    changed = bytearray(data)
    np.frombuffer(changed, np.uint8)[start:end] ^= 1
    return changed


def added(name: str) -> bytes:
    (path,) = Path(".em/artifacts").glob(f"*/{name}/model")
    return path.read_bytes()


def test_new_checkpoint_under_a_known_header_is_read_once() -> None:
    first = checkpoint(Path("first/model"), 12 * MIB)
    size = len(first)
    header = 8 + int.from_bytes(first[:8], "little")
    layer = (size - header) // 8
    versions = {
        "every-weight": other(first, header, size),
        "last-layer": other(first, size - layer, size),
        "end-of-the-last-layer": other(first, size - 10, size),
        "middle-layer": other(first, header + 4 * layer, header + 5 * layer),
    }
    for name, data in versions.items():
        Path(name).mkdir()
        Path(name, "model").write_bytes(data)
    traced = Traced(ADD_EACH, "first", *versions)
    for name in ("first", *versions):
        assert traced.read_of(Path(name, "model")) == size + sketch_bytes(size) + PROBE_BYTES + header, name
    assert traced.written_below("objects") == 5 * size
    assert sketch_bytes(size) <= size / 64
    assert list(_engine.verify(".em/store")["problems"]) == []
    for name, data in versions.items():
        assert added(name) == data


def test_checkpoint_saved_over_the_one_before_is_read_once() -> None:
    first = checkpoint(Path("runs/last"), 5 * MIB)
    overwrite = "em.create_artifact('a').add_dir('runs')\nwith open('runs/last', 'r+b') as file:\n"
    overwrite += "    file.write(open('next', 'rb').read())\nem.create_artifact('b').add_dir('runs')"
    following = other(first, MIB, len(first))
    Path("next").write_bytes(following)
    traced = Traced(overwrite)
    header = 8 + int.from_bytes(first[:8], "little")
    once = len(first) + sketch_bytes(len(first)) + PROBE_BYTES + header
    assert traced.read_of(Path("runs/last")) == 2 * once
    assert sorted(path.read_bytes() for path in Path(".em/artifacts").glob("*/runs/last")) == sorted((first, following))


def test_checkpoints_that_differ_between_the_samples_are_read_twice_only_once() -> None:
    size = 3 * MIB + 5
    first = bytearray(np.random.default_rng(0).bytes(size))
    places = oracle.sketch_places(size)
    at = [100_000, size - 100_000]
    assert not any(start <= place < start + length for start, length in places for place in at)
    for name, data in {"0": first, "1": other(first, at[0], at[0] + 9), "2": other(first, at[1], at[1] + 9)}.items():
        Path(name).mkdir()
        Path(name, "model").write_bytes(data)
    shutil.copytree("1", "3")
    traced = Traced(ADD_EACH, "0", "1", "2", "3")
    once = size + sketch_bytes(size)
    read = [once + PROBE_BYTES, 2 * once + PROBE_BYTES, once + PROBE_BYTES, once + PROBE_BYTES]
    assert [traced.read_of(Path(name, "model")) for name in "0123"] == read
    # From then on, what looks like this is written while it is hashed: also what turns out to be there.
    assert traced.written_below("objects") == 4 * size
    assert _engine.verify(".em/store")["objects"] == 3
    assert added("3") == Path("1/model").read_bytes()


def test_any_tensor_of_a_zip_file_is_noticed() -> None:
    weights = np.random.default_rng(0).integers(0, 256, 3 * MIB, np.uint8)
    for name in ("0", "1"):
        Path(name).mkdir()
        with Path(name, "model").open("wb") as file:
            np.savez(file, weights=weights, head=weights[:9])
        weights[100_000] ^= 1
    # There is no sample, but its checksum stands at the end.
    first, second = (np.frombuffer(Path(name, "model").read_bytes(), np.uint8) for name in "01")
    (at,) = (int(place) for place in np.flatnonzero(first != second) if 64 << 10 < place < len(first) - (64 << 10))
    assert not any(start <= at < start + length for start, length in oracle.sketch_places(len(first)))
    traced = Traced(ADD_EACH, "0", "1")
    assert traced.read_of(Path("1/model")) == traced.read_of(Path("0/model")) < 1.5 * len(first)
    assert added("1") == second.tobytes()


def test_large_file_new_again_and_with_new_times() -> None:
    size = 40 * MIB + 12_345
    source, copy = Path("source/model"), Path("copy/model")
    for path in (source, copy):
        path.parent.mkdir()
        path.write_bytes(np.random.default_rng(1).bytes(size))
    once = size + sketch_bytes(size)

    traced = Traced(ADD_EACH, "source", slowly=True)
    assert traced.read_of(source) == once + PROBE_BYTES
    assert traced.written_below("objects") == size
    (table,) = (path for path in Path(".em/store/chunks").rglob("*") if path.is_file())
    chunks = len(oracle.chunk_table(table.read_bytes()).chunks)
    # The records are read once, for the table's checksum.
    assert (traced.written_below("chunks"), traced.read_below("chunks")) == (32 + 36 * chunks + 8, 36 * chunks)
    assert traced.read_below("objects") == 0
    assert len(traced.threads[str(source.absolute())]) == 2, "one large file is read by both threads"

    for path, why in ((copy, "another inode"), (source, "new times")):
        os.utime(path, (1_700_000_000, 1_700_000_000))
        traced = Traced(ADD_EACH, str(path.parent))
        assert traced.read_of(path) == once, why
        assert (traced.written_below("objects"), traced.written_below("chunks")) == (0, 0), why
        assert (traced.read_below("objects"), traced.read_below("chunks")) == (0, 0), why


def test_large_file_unchanged_is_not_read() -> None:
    # Older than the stat cache's slack.
    source = max(Path(np.__file__).parent.rglob("*.so"), key=lambda path: path.stat().st_size)
    size = source.stat().st_size
    assert size > 2 * MIB
    once = size + sketch_bytes(size) + PROBE_BYTES
    script = "em.create_artifact('a').add_file(sys.argv[1])"
    for read, written in ((once, size), (0, 0)):
        traced = Traced(script, str(source))
        assert (traced.read_of(source), traced.written_below("objects")) == (read, written)
        assert traced.read_below("objects") == 0


def test_small_files_of_one_directory_are_read_by_both_threads() -> None:
    Path("source").mkdir()
    for number in range(40):
        Path("source", str(number)).write_bytes(os.urandom(100 + number))
    traced = Traced(ADD_EACH, "source", slowly=True)
    paths = [str(path.absolute()) for path in Path("source").iterdir()]
    assert all(len(traced.threads[path]) == 1 for path in paths)
    assert len(set.union(*(traced.threads[path] for path in paths))) == 2
    assert sum(traced.read[path] for path in paths) == sum(os.path.getsize(path) for path in paths)
    assert traced.written_below("objects") == sum(os.path.getsize(path) for path in paths)

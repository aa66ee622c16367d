"""Processes that share a store and an artifact."""

import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from lacking import lacks
from t9k import em
from t9k.em import _engine
from t9k.em.errors import NotFoundError

from .conftest import POINTS, Child, contents, leftovers, points, problems, traced, tree


def overlapping(count: int) -> dict[str, bytes]:
    """Trees `t0` … of which each shares most of its files with the next one; `{path: bytes}`."""
    chance = random.Random(1)
    texts = [chance.randbytes(1 << chance.randrange(21)) for _ in range(count + 12)]
    for number in range(count):
        Path(f"t{number}").mkdir()
        for index, text in enumerate(texts[number : number + 12]):
            Path(f"t{number}", f"{index}.bin").write_bytes(text)
    return {path: data for number in range(count) for path, data in tree(f"t{number}").items()}


def together(children: list[Child]) -> None:
    for child in children:
        child.go()
    for ended in [child.join() for child in children]:
        assert ended.ok, ended.message


def test_eight_add_to_one_store_beside_readers_and_gc() -> None:
    overlapping(8)
    _engine.verify(".em/store")
    artifacts = [em.create_artifact(f"x{number}") for number in range(8)]
    stop = mmap.mmap(-1, 1)

    def read() -> None:
        """Every object that is visible is whole, and every entry can be read."""
        rounds = 0
        while not stop[0] or not rounds:
            rounds += 1
            for path in Path(".em/store/objects").glob("??/[!.]*"):
                try:
                    data = path.read_bytes()
                except FileNotFoundError:
                    continue  # condemned
                assert blake3(data).hexdigest() == path.parent.name + path.name
            for artifact in artifacts:
                for path, data in contents(artifact).items():
                    digest = next(entry["digest"] for entry in artifact.objects if entry["path"] == path)
                    assert blake3(data).hexdigest() == digest.removeprefix("blake3:")

    def collect() -> None:
        while not stop[0]:
            _engine.gc(".em/store", 0, False)

    def add(number: int) -> None:
        for turn in range(max(2, POINTS // 10)):
            artifacts[number].add_dir(f"t{number}", f"{turn}")
            # An artifact that nobody keeps, so that gc has something to do.
            lost = em.create_artifact("lost")
            lost.add_dir(f"t{number}")
            for path in sorted(Path(lost.local).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            Path(lost.local).rmdir()

    beside = [Child(read), Child(read), Child(collect), Child(collect)]
    for child in beside:
        child.go()
    try:
        together([Child(lambda number=number: add(number)) for number in range(8)])
    finally:
        stop[0] = 1
        ended = [child.join() for child in beside]
    assert [end.message for end in ended if not end.ok] == []
    for number, artifact in enumerate(artifacts):
        expected = {path.partition("/")[2]: data for path, data in tree(f"t{number}").items()}
        turns = max(2, POINTS // 10)
        assert contents(artifact) == {f"{t}/{path}": data for t in range(turns) for path, data in expected.items()}
        assert problems(artifact) == []
    _engine.gc(".em/store", 0, False)
    assert problems() == []
    assert leftovers(artifacts[0]) == []


def test_adds_to_one_artifact_keep_each_other() -> None:
    expected = overlapping(4)
    artifact = em.create_artifact("x")
    begun = mmap.mmap(-1, 4)

    def add(number: int) -> None:
        loaded = em.load_artifact(artifact.local)
        loaded.add_dir(f"t{number}")
        begun[number] = 1
        for turn in range(POINTS):
            loaded.add_file(f"t{number}/0.bin", f"f{number}/{turn}")
            loaded.add_reference(f"s3://bucket/{turn}", f"r{number}/{turn}")
            if turn == POINTS // 2:
                # None is done before the last one has begun.
                while 0 in begun[:]:
                    time.sleep(0.0001)

    together([Child(lambda number=number: add(number)) for number in range(4)])
    for number in range(4):
        data = Path(f"t{number}/0.bin").read_bytes()
        expected |= {f"f{number}/{turn}": data for turn in range(POINTS)}
    assert contents(artifact) == expected
    references = [entry for entry in artifact.objects if entry["type"] == "reference"]
    assert len(references) == 4 * POINTS
    assert leftovers(artifact) == problems(artifact) == problems() == []


def test_adds_of_one_path_leave_one_of_them_whole() -> None:
    """And a reader finds at each path, all the time, the whole file of one of them."""
    overlapping(4)
    artifact = em.create_artifact("x")
    artifact.add_dir("t0", "same")
    stop = mmap.mmap(-1, 1)

    def add(number: int) -> None:
        for _ in range(POINTS):
            artifact.add_dir(f"t{number}", "same")

    def read() -> None:
        seen = set()
        while not stop[0]:
            for name, texts in versions.items():
                data = Path(artifact.local, "same", name).read_bytes()
                assert data in texts, name
                seen.add((name, texts.index(data)))
        assert len(seen) > len(versions), "nothing was replaced under the reader"

    versions = {f"{index}.bin": [Path(f"t{n}/{index}.bin").read_bytes() for n in range(4)] for index in range(12)}
    reader = Child(read)
    reader.go()
    try:
        together([Child(lambda number=number: add(number)) for number in range(4)])
    finally:
        stop[0] = 1
        ended = reader.join()
    assert ended.ok, ended.message
    wanted = [{path.partition("/")[2]: data for path, data in tree(f"t{number}").items()} for number in range(4)]
    assert {path.removeprefix("same/"): data for path, data in contents(artifact).items()} in wanted
    assert problems(artifact) == problems() == leftovers(artifact) == []


def test_loading_never_undoes_a_running_add() -> None:
    expected = overlapping(2)
    artifact = em.create_artifact("x")
    stop = mmap.mmap(-1, 1)

    def load() -> None:
        while not stop[0]:
            try:
                em.load_artifact(artifact.local)
            except NotFoundError:
                raise AssertionError("it has been there all the time") from None

    loader = Child(load)
    loader.go()
    together([Child(lambda number=number: artifact.add_dir(f"t{number}")) for number in range(2)])
    stop[0] = 1
    ended = loader.join()
    assert ended.ok, ended.message
    assert contents(artifact) == expected


def test_readers_of_an_artifact_that_eight_add_to_see_it_grow_and_whole() -> None:
    expected = overlapping(8)
    artifact = em.create_artifact("x")
    stop = mmap.mmap(-1, 1)

    def read() -> None:
        seen: set[str] = set()
        while not stop[0]:
            loaded = em.load_artifact(artifact.local)
            entries = {entry["path"]: entry["digest"].removeprefix("blake3:") for entry in loaded.objects}
            assert seen <= set(entries), "an entry was lost"
            seen = set(entries)
            for path, digest in entries.items():
                data = Path(loaded.local, path).read_bytes()
                assert blake3(data).hexdigest() == digest
                assert data == expected[path.partition("/")[2]]

    def add(number: int) -> None:
        loaded = em.load_artifact(artifact.local)
        for turn in range(max(2, POINTS // 10)):
            loaded.add_dir(f"t{number}", f"{turn}/t{number}")

    def collect() -> None:
        while not stop[0]:
            _engine.gc(".em/store", 0, False)

    beside = [Child(read), Child(read), Child(collect)]
    for child in beside:
        child.go()
    try:
        together([Child(lambda number=number: add(number)) for number in range(8)])
    finally:
        stop[0] = 1
        ended = [child.join() for child in beside]
    assert [end.message for end in ended if not end.ok] == []
    turns = range(max(2, POINTS // 10))
    assert contents(artifact) == {f"{turn}/{path}": data for turn in turns for path, data in expected.items()}
    assert leftovers(artifact) == problems(artifact) == problems() == []


def test_gc_beside_gc() -> None:
    """Each object is deleted by one of them, and neither fails for what the other did."""
    for _ in range(5):
        Path("many").mkdir(exist_ok=True)
        for index in range(300):
            Path("many", str(index)).write_bytes(random.randbytes(50))
        lost, kept = em.create_artifact("lost"), em.create_artifact("kept")
        lost.add_dir("many")
        kept.add_file("many/1", "kept")
        shutil.rmtree(lost.local)
        together([Child(lambda: _engine.gc(".em/store", 0, False)) for _ in range(3)])
        _engine.gc(".em/store", 0, False)
        assert len([*Path(".em/store/objects").glob("??/*")]) == len(list(Path(".em/artifacts").iterdir()))
        assert problems(kept) == problems() == leftovers(kept) == []


@pytest.mark.usefixtures("strace")
def test_add_whose_lease_was_taken_for_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a suspended laptop: gc deletes what is linked and not yet committed, and the add stores it again."""
    monkeypatch.setenv("EM_THREADS", "1")
    overlapping(1)
    rehearsal = em.create_artifact("x")
    log = traced(lambda: rehearsal.add_dir("t0"), "--trace=renameat2").log
    *_, (_, commit) = points(log.partition("manifest-")[0])
    shutil.rmtree(".em")
    artifact = em.create_artifact("x")
    inner = Path(artifact.local, ".artifact")

    def collect() -> None:
        while not list(inner.glob("intent-*")) or not list(inner.glob(".tmp-*")):
            time.sleep(0.001)
        for lease in Path(".em/store/leases").glob("[!.]*"):
            lease.unlink()
        assert _engine.gc(".em/store", 0, False)["deleted_objects"]

    collector = Child(collect)
    collector.go()
    delay = f"--inject=renameat2:delay_enter=1s:when={commit}"
    ended = traced(lambda: artifact.add_dir("t0"), "--trace=renameat2", delay)
    assert ended.ok, ended.message
    collected = collector.join()
    assert collected.ok, collected.message
    assert contents(artifact) == tree("t0")
    assert problems(artifact) == problems() == []


@pytest.mark.usefixtures("strace")
def test_gc_while_the_directory_of_the_artifacts_is_made() -> None:
    """It comes while `gc` looks whether it is there, which takes 50 ms here."""
    _engine.verify(".em/store")

    def work() -> None:
        def make() -> None:
            while "/artifacts" not in Path("strace.log").read_text(errors="replace"):
                time.sleep(0.001)
            Path(".em/artifacts").mkdir()

        threading.Thread(target=make, daemon=True).start()
        _engine.gc(".em/store", 0, False)

    ended = traced(work, "--trace=statx", "--inject=statx:delay_exit=50ms")
    assert ended.ok, ended.message


OTHER_HOST = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", 'hostname "$0"; exec "$@"', "other"]
ADDS = """
import sys
from t9k import em
artifact = em.load_artifact(sys.argv[1])
print("ready", flush=True)
for line in sys.stdin:
    artifact.add_dir(line.strip(), "d")
    print("added", flush=True)
"""


class OtherHost:
    """A process that adds trees as it is told, on a host of another name with a process table of its own."""

    def __init__(self, artifact: em.Artifact) -> None:
        command = [*OTHER_HOST, sys.executable, "-c", ADDS, artifact.local]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if self._process.stdout.readline() != "ready\n":
            lacks("no namespace can be made here, which takes root")
        pid = self._process.pid
        self.pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())

    def begin(self, tree: str) -> None:
        self._process.stdin.write(f"{tree}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        assert self._process.stdout.readline() == "added\n"

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def stop_within_an_add(self) -> bool:
        """Whether it is in one, after it has stored something."""
        os.kill(self.pid, signal.SIGSTOP)
        while ") T" not in Path(f"/proc/{self.pid}/stat").read_text():
            time.sleep(0.0001)
        return bool(list(Path(".em/store/leases").glob("[!.]*")))

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@pytest.fixture
def other_host(artifact: em.Artifact) -> Iterator[OtherHost]:
    host = OtherHost(artifact)
    yield host
    host.kill()


@pytest.fixture
def artifact() -> em.Artifact:
    _engine.verify(".em/store")
    return em.create_artifact("x")


def new_tree(number: int) -> str:
    name = f"new{number}"
    Path(name).mkdir()
    for index in range(60):
        Path(name, str(index)).write_bytes(random.randbytes(3000))
    return name


def unreachable() -> em.Artifact:
    lost = em.create_artifact("lost")
    Path("lost").write_bytes(random.randbytes(100))
    lost.add_file("lost")
    shutil.rmtree(lost.local)
    return lost


def test_gc_never_takes_what_an_add_on_another_host_has_stored(artifact: em.Artifact, other_host: OtherHost) -> None:
    """Stopped in the middle of its add it cannot look after its objects; gc without a grace deletes nothing."""
    chance = random.Random(1)
    wanted, turns, lasts = max(3, POINTS // 5), 0, 0.01
    within = 0
    while within < wanted:
        unreachable()
        tree_of_turn = new_tree(turns)
        turns += 1
        began = time.monotonic()
        other_host.begin(tree_of_turn)
        time.sleep(chance.random() * lasts)
        if other_host.stop_within_an_add():
            within += 1
            leases = sorted(Path(".em/store/leases").iterdir())
            stored = sorted(Path(".em/store/objects").glob("??/*"))
            for _ in range(3):
                assert _engine.gc(".em/store", 0, False)["deleted_objects"] == 0
            assert sorted(Path(".em/store/leases").iterdir()) == leases
            assert sorted(Path(".em/store/objects").glob("??/*")) == stored
            other_host.go_on()
            other_host.end()
        else:
            other_host.go_on()
            other_host.end()
            lasts = time.monotonic() - began
        assert contents(artifact) == {
            path.replace(tree_of_turn, "d", 1): data for path, data in tree(tree_of_turn).items()
        }
        assert _engine.gc(".em/store", 0, False)["deleted_objects"] > 0
        shutil.rmtree(tree_of_turn)
    assert problems(artifact) == problems() == leftovers(artifact) == []


def test_add_that_died_on_another_host_is_undone_when_its_time_is_over(
    artifact: em.Artifact, other_host: OtherHost
) -> None:
    """Nobody here can know that it died, so an hour long nothing of it is touched."""
    chance, inner = random.Random(1), Path(artifact.local, ".artifact")
    trees = [new_tree(number) for number in range(2)]
    lasts = 0.01
    while True:
        before, began = contents(artifact), time.monotonic()
        other_host.begin(trees[0])
        time.sleep(chance.random() * lasts)
        if other_host.stop_within_an_add() and list(inner.glob("intent-*")):
            break
        other_host.go_on()
        other_host.end()
        lasts = time.monotonic() - began
        trees.reverse()
    other_host.kill()
    found = sorted(path for path in Path(".em").rglob("*") if path.is_file())
    loaded = em.load_artifact(artifact.local)
    assert _engine.gc(".em/store", 0, False)["deleted_objects"] == 0
    assert sorted(path for path in Path(".em").rglob("*") if path.is_file()) == found
    before_hours = time.time() - 7200
    for path in [*Path(".em/store/leases").iterdir(), *inner.glob("intent-*")]:
        os.utime(path, (before_hours, before_hours))
    loaded = em.load_artifact(artifact.local)
    # It may have been stopped behind its commit.
    assert contents(loaded) in (before, {path.replace(trees[0], "d", 1): data for path, data in tree(trees[0]).items()})
    _engine.gc(".em/store", 0, False)
    assert leftovers(loaded) == problems(loaded) == problems() == []
    loaded.add_dir(trees[1], "d")
    assert contents(loaded) == {path.replace(trees[1], "d", 1): data for path, data in tree(trees[1]).items()}

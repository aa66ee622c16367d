"""Processes that share a store and an artifact."""

import mmap
import random
import shutil
import threading
import time
from pathlib import Path

import pytest
from blake3 import blake3
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

    def add(number: int) -> None:
        loaded = em.load_artifact(artifact.local)
        loaded.add_dir(f"t{number}")
        for turn in range(POINTS):
            loaded.add_file(f"t{number}/0.bin", f"f{number}/{turn}")
            loaded.add_reference(f"s3://bucket/{turn}", f"r{number}/{turn}")

    together([Child(lambda number=number: add(number)) for number in range(4)])
    for number in range(4):
        data = Path(f"t{number}/0.bin").read_bytes()
        expected |= {f"f{number}/{turn}": data for turn in range(POINTS)}
    assert contents(artifact) == expected
    references = [entry for entry in artifact.objects if entry["type"] == "reference"]
    assert len(references) == 4 * POINTS
    assert leftovers(artifact) == problems(artifact) == problems() == []


def test_adds_of_one_path_leave_one_of_them_whole() -> None:
    overlapping(4)
    artifact = em.create_artifact("x")

    def add(number: int) -> None:
        for _ in range(POINTS):
            artifact.add_dir(f"t{number}", "same")

    together([Child(lambda number=number: add(number)) for number in range(4)])
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

    readers = [Child(read), Child(read)]
    for reader in readers:
        reader.go()
    try:
        together([Child(lambda number=number: add(number)) for number in range(8)])
    finally:
        stop[0] = 1
        ended = [reader.join() for reader in readers]
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

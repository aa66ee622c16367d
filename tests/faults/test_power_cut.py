"""After a power cut nothing wrong is trusted: files that an earlier boot left unsynced lose bytes or metadata."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import oracle
import pytest
from t9k import em
from t9k.em import _engine
from t9k.em.errors import IntegrityError, InvalidInputError, NotFoundError

from .conftest import POINTS, contents, problems, traced, tree

EARLIER_BOOT = bytes(range(16))
CUTS = int(os.environ.get("EM_POWER_CUTS", "1"))

# Says after each add how many have returned.
ADDS = """
import itertools, sys
from t9k import em
artifact = em.load_artifact(sys.argv[1])
for number in itertools.count():
    artifact.add_dir(sys.argv[2], str(number))
    print(number + 1, flush=True)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trees that share a file, with objects of one chunk and of many."""
    chance = random.Random(1)
    directory = tmp_path_factory.mktemp("sources")
    for name in "ab":
        (directory / name / "deep").mkdir(parents=True)
        for size in (0, 1, 5000, 80_000, 300_000, 1_300_000):
            (directory / name / "deep" / f"{size}.bin").write_bytes(chance.randbytes(size))
        (directory / name / "shared").write_bytes(b"shared" * 60_000)
    (directory / "a/run.sh").write_text("#!/bin/sh\n")
    (directory / "a/run.sh").chmod(0o755)
    # From now on their times vouch for them in the stat cache.
    time.sleep(2.1)
    return directory


def object_name(path: Path) -> str:
    return path.parent.name + path.name


def objects() -> list[Path]:
    return sorted(Path(".em/store/objects").glob("??/[!.]*"))


def seal_by_an_earlier_boot() -> None:
    for path in objects():
        seconds = path.stat().st_mtime_ns // 10**9
        nanoseconds = oracle.seal_ns(object_name(path), seconds, EARLIER_BOOT)
        os.utime(path, ns=(0, seconds * 10**9 + nanoseconds))


def lose_bytes(path: Path, chance: random.Random) -> None:
    """The inode keeps mode and times, and perhaps its size; of its bytes some never reached the disk."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    page = at // 4096 * 4096
    match chance.choice(["all", "page", "range", "tail", "short", "empty"]):
        case "all":
            data[:] = bytes(len(data))
        case "page":
            data[page : page + 4096] = bytes(len(data[page : page + 4096]))
        case "range":
            data[at:end] = bytes(end - at)
        case "tail":
            data[at:] = bytes(len(data) - at)
        case "short":
            del data[at:]
        case "empty":
            data.clear()
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(stat.st_mode & 0o7777)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def lose_metadata(path: Path, chance: random.Random) -> None:
    """The bytes are there; times, mode or name are those of an earlier moment."""
    match chance.choice(["time", "mode", "temporary name", "gone"]):
        case "time":
            os.utime(path)
        case "mode":
            path.chmod(0o600)
        case "temporary name":
            path.rename(path.with_name(f".tmp-{chance.getrandbits(128):032x}"))
        case "gone":
            path.unlink()


def cut_power(chance: random.Random, share: float, manifests: bool) -> None:
    seal_by_an_earlier_boot()
    victims = [*objects(), *Path(".em/store/chunks").glob("??/[!.]*"), *Path("cache/em").glob("stat-*/*/??")]
    if manifests:
        victims += Path(".em/artifacts").glob("*/.artifact/manifest-*")
    for path in sorted(victims):
        if chance.random() < share:
            chance.choice([lose_bytes, lose_metadata])(path, chance)


def wrong_objects() -> set[str]:
    return {str(path) for path in objects() if oracle.digest(path.read_bytes()) != object_name(path)}


def wrong_tables() -> set[str]:
    wrong = set()
    for path in Path(".em/store/chunks").glob("??/[!.]*"):
        try:
            oracle.chunk_table(path.read_bytes())
        except (AssertionError, struct.error):
            wrong.add(str(path))
    return wrong


def load(local: str) -> em.Artifact | None:
    """Nothing if the manifest is gone or refused."""
    try:
        artifact = em.load_artifact(local)
        _ = artifact.objects
    except (IntegrityError, NotFoundError):
        return None
    return artifact


def shared_bytes(first: em.Artifact, second: em.Artifact) -> int | None:
    """Nothing if a chunk table is refused."""
    try:
        shared = _engine.diff(".em/store", first.local, second.local)[0]
        assert isinstance(shared, int)
        return shared
    except _engine.EngineError as error:
        return None if error.kind == "integrity" else -1


@pytest.mark.parametrize("mode", ["hardlink", "copy"])
@pytest.mark.parametrize("manifests", [False, True])
def test_power_cut(sources: Path, mode: str, manifests: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_LINK_MODE", mode)
    artifact = em.create_artifact("x")
    artifact.add_dir(str(sources / "a"), "a")
    artifact.add_dir(str(sources / "b"), "b")
    before = artifact.objects
    expected = {str(Path(path).relative_to(sources)): data for path, data in tree(str(sources)).items()}
    assert contents(artifact) == expected
    unique = sum(map(len, set(expected.values())))
    for name in (".em", "cache"):
        Path(name).rename(f"{name}-before")

    refused = damaged = healed = 0
    for seed in range(POINTS):
        chance = random.Random(seed)
        for name in (".em", "cache"):
            subprocess.run(f"rm -rf {name} && cp -a {name}-before {name}", shell=True, check=True)
        cut_power(chance, chance.choice([0.1, 0.5, 1.0]), manifests)
        wrong = wrong_objects()
        damaged += len(wrong)

        found = [problem for problem in problems() if problem["kind"] == "damaged"]
        reported = {problem["path"] for problem in found if problem["thing"] != "manifest"}
        assert reported == wrong | wrong_tables(), seed

        # Into a new artifact, by way of the stat cache and of what is left in the store.
        again = em.create_artifact("y")
        for name in "ab":
            again.add_dir(str(sources / name), name)
        assert contents(again) == expected, seed
        assert {problem["path"] for problem in problems(again)} == wrong_tables(), seed
        assert wrong_objects() == set(), seed
        healed += len(wrong)

        loaded = load(artifact.local)
        if loaded is None:
            assert manifests, seed
            refused += 1
            continue
        assert loaded.objects == before, seed
        # A table that lost bytes is refused until it is removed, which makes its object one chunk.
        assert shared_bytes(loaded, again) == (None if wrong_tables() else unique), seed
        for table in wrong_tables():
            Path(table).unlink()
        assert shared_bytes(loaded, again) == unique, seed
        # What verify does not name is right; an add puts the rest right.
        named = {problem["path"] for problem in problems(loaded)}
        for path, data in expected.items():
            file = Path(loaded.local, path)
            assert str(file) in named or file.read_bytes() == data, (seed, path)
        for name in "ab":
            loaded.add_dir(str(sources / name), name)
        assert contents(loaded) == expected, seed
        _engine.gc(".em/store", 0, False)
        assert problems(loaded) == problems(again) == problems() == [], seed
    assert healed == damaged > 0
    assert bool(refused) == manifests


class Disk:
    """An ext4 of `file_system`, whose power can be cut."""

    # `EXT4_IOC_SHUTDOWN` of the kernel's `fs/ext4/ext4.h`, and its flag that writes no more of the journal.
    SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2

    def __init__(self, path: Path) -> None:
        self.path, self._image = path, path.with_name("ext4 image")

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self._image), str(self.path)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.path)], check=True)

    def stop(self) -> None:
        """What is not on the disk now never will be."""
        handle = os.open(self.path, os.O_RDONLY)
        fcntl.ioctl(handle, self.SHUTDOWN, struct.pack("I", self.NO_LOG_FLUSH))
        os.close(handle)

    def commit(self) -> None:
        """Somebody syncs another file, and with it the names and sizes of all files."""
        handle = os.open(self.path / "other", os.O_CREAT | os.O_WRONLY)
        os.write(handle, b"x")
        os.fsync(handle)
        os.close(handle)


@pytest.fixture
def disk(file_system: Callable[[str], Path]) -> Disk:
    disk = Disk(file_system("ext4"))
    Path(".em").symlink_to(disk.path)
    return disk


def test_artifact_is_whole_after_power_is_cut_while_it_grows(disk: Disk, sources: Path) -> None:
    chance = random.Random(2)
    names = sorted(str(path.relative_to(sources / "a")) for path in (sources / "a").rglob("*") if path.is_file())
    for cut in range(CUTS):
        artifact = em.create_artifact(f"x{cut}")
        command = [sys.executable, "-c", ADDS, artifact.local, str(sources / "a")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as adding:
            assert adding.stdout
            assert adding.stdout.readline() == b"1\n"
            disk.commit()
            end = time.monotonic() + chance.uniform(0, 0.3)
            while time.monotonic() < end:
                disk.commit()
            disk.stop()
            adding.kill()
        disk.unmount()
        disk.mount()
        seal_by_an_earlier_boot()
        loaded = em.load_artifact(artifact.local)
        assert loaded.name == f"x{cut}"
        paths = [path for path, _ in loaded.entries()]
        adds = len({path.split("/")[0] for path in paths})
        assert adds >= 1
        assert paths == sorted(f"{add}/{name}" for add in range(adds) for name in names)
        # Bytes of objects may be missing; an add puts them right.
        for add in range(adds):
            loaded.add_dir(str(sources / "a"), str(add))
        # Files of an add whose manifest did not reach the disk may be there.
        assert [problem for problem in problems(loaded) if problem["kind"] != "stray"] == []


@pytest.mark.usefixtures("strace")
def test_what_leads_to_all_else_is_on_the_disk_before_its_name(sources: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_ARTIFACT_PARENT_DIR", os.path.abspath("elsewhere"))

    def work() -> None:
        em.create_artifact("x").add_dir(str(sources / "a"))

    ended = traced(work, "-y", "--trace=sync_file_range,fdatasync")
    assert ended.ok, ended.message
    written = re.findall(r"<[^>]*/([^/>]+)/\.tmp-[0-9a-f]{32}>", ended.log)
    # VERSION; the root; the first manifest, metadata.json and the next manifest.
    assert sorted(written) == [".artifact"] * 3 + ["roots", "store"]


@pytest.mark.parametrize("loss", ["zeros", "short", "empty"])
def test_manifest_that_lost_bytes_says_what_to_do(sources: Path, loss: str) -> None:
    artifact = em.create_artifact("x")
    artifact.add_dir(str(sources / "a"))
    before = contents(artifact)
    (manifest,) = Path(artifact.local, ".artifact").glob("manifest-*")
    whole = manifest.read_bytes()
    manifest.write_bytes({"zeros": bytes(len(whole)), "short": whole[:-9], "empty": b""}[loss])
    for use in (lambda: em.load_artifact(artifact.local).objects, lambda: artifact.add_dir(str(sources / "b"))):
        with pytest.raises(IntegrityError, match="manifest-") as error:
            use()
        assert error.value.hint == (
            f"its files are still there: remove {artifact.local}/.artifact "
            f"and add what is in {artifact.local} to a new artifact"
        )
    shutil.rmtree(Path(artifact.local, ".artifact"))
    again = em.create_artifact("x")
    for path in Path(artifact.local).iterdir():
        add = again.add_dir if path.is_dir() else again.add_file
        add(path)
    assert contents(again) == before


def test_metadata_that_lost_bytes_says_what_to_do(sources: Path) -> None:
    artifact = em.create_artifact("x")
    artifact.add_dir(str(sources / "a"))
    metadata = Path(artifact.local, ".artifact/metadata.json")
    metadata.write_bytes(bytes(metadata.stat().st_size))
    with pytest.raises(InvalidInputError, match=r"metadata\.json") as error:
        em.load_artifact(artifact.local)
    assert error.value.hint == 'its entries are still there: write {"name": "…"} into it'
    metadata.write_text('{"name": "x"}')
    assert em.load_artifact(artifact.local).objects == artifact.objects

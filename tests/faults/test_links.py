"""Linking that is refused, that fails and that is interrupted, and copies that take long."""

import errno
import logging
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from t9k import em
from t9k.em import _engine
from t9k.em.errors import NotFoundError, StoreError

from .conftest import contents, leftovers, problems, traced, tree

MIB = 1 << 20


@pytest.fixture
def source() -> Path:
    """Three files, one of them in several pieces."""
    path = Path("source")
    path.mkdir()
    for name, size in (("a", 100), ("b", 3 * MIB + 5), ("c", 200)):
        Path(path, name).write_bytes(os.urandom(size))
    return path


@pytest.fixture
def artifact(source: Path, monkeypatch: pytest.MonkeyPatch) -> em.Artifact:
    """Has another file at the path of the large one."""
    monkeypatch.setenv("EM_THREADS", "1")
    monkeypatch.delenv("EM_LINK_MODE", raising=False)
    Path("before").write_text("before")
    artifact = em.create_artifact("x")
    artifact.add_file("before", "source/b")
    return artifact


def kinds(artifact: em.Artifact) -> str:
    """Of the files in order: `h`, a name of the object, or `c`, a file of its own."""
    paths = [Path(artifact.local, entry["path"]) for entry in artifact.objects if entry["type"] == "file"]
    return "".join("hc"[path.stat().st_nlink == 1] for path in paths)


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    ("error", "found"),
    [
        # This object cannot have more names, or is somebody else's: the next one is linked.
        ("EMLINK", "chh"),
        ("EPERM", "chh"),
        ("EACCES", "chh"),
        # Between these file systems there are no links.
        ("EXDEV", "ccc"),
        ("EOPNOTSUPP", "ccc"),
    ],
)
def test_refused_link_is_a_copy(error: str, found: str, artifact: em.Artifact, source: Path) -> None:
    def work() -> None:
        artifact.add_dir(source)

    ended = traced(work, "--trace=linkat", f"--inject=linkat:error={error}:when=1")
    assert "(INJECTED)" in ended.log
    assert ended.ok, ended.message
    assert contents(artifact) == tree("source")
    assert kinds(artifact) == found
    assert ended.log.count("linkat(") == (1 if found == "ccc" else 4), "b was there: it takes two"
    assert problems(artifact) == problems() == leftovers(artifact) == []


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(
    "fault",
    [
        "fallocate:error=ENOSPC",
        "copy_file_range:error=ENOSPC:when=3",
        "copy_file_range:error=EIO:when=4",
        "copy_file_range:error=EDQUOT:when=1",
        "fchmod:error=EIO:when=2",
        "renameat:error=EROFS:when=2",
    ],
)
def test_copy_that_fails_leaves_what_was_there(
    fault: str, artifact: em.Artifact, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_LINK_MODE", "copy")
    _engine.add_dir(".em/store", em.create_artifact("y").local, str(source), "all")  # the objects are there
    before = contents(artifact)

    def work() -> None:
        artifact.add_dir(source)

    call = fault.split(":")[0]
    ended = traced(work, f"--trace={call}", f"--inject={fault}")
    assert "(INJECTED)" in ended.log
    assert ended.error == "StoreError", ended.message
    assert f"{artifact.local}/source/" in ended.message
    assert contents(artifact) == before
    assert [path.name for path in Path(artifact.local, "source").iterdir()] == ["b"]
    assert problems(artifact) == leftovers(artifact) == []
    artifact.add_dir(source)
    assert contents(artifact) == tree("source")


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("call", ["add", "materialize", "link_entries"])
def test_copy_is_interrupted(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 64 * MIB
    Path("large").write_bytes(os.urandom(MIB) * 64)
    loaded = em.create_artifact("loaded")
    loaded.add_file("large")
    artifact = em.create_artifact("x")
    manifest, digest = _engine.read_manifest(loaded.local), bytes.fromhex(loaded.objects[0]["digest"])
    into = Path("into").absolute()
    into.mkdir()
    target = str(into / "artifact")
    monkeypatch.setenv("EM_LINK_MODE", "copy")

    def interrupt() -> None:
        while not any(path.stat().st_size for path in Path().rglob(".tmp-*") if path.is_file()):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    def work() -> None:
        threading.Thread(target=interrupt, daemon=True).start()
        match call:
            case "add":
                artifact.add_file("large")
            case "materialize":
                _engine.materialize(".em/store", target, manifest)
            case _:
                _engine.link_entries(".em/store", str(into), [("large", digest, False)])

    ended = traced(work, "--trace=copy_file_range", "--inject=copy_file_range:delay_exit=50000")
    assert ended.error == "KeyboardInterrupt", ended.message
    copied = sum(map(int, re.findall(r"= (\d+) \(DELAYED\)", ended.log)))
    assert 0 < copied < size, "it was not heard before all was copied"
    assert contents(artifact) == {}
    assert [path.name for path in Path(artifact.local).iterdir()] == [".artifact"]
    assert list(into.iterdir()) == []
    assert leftovers(artifact) == problems() == []


def test_holes_of_a_copy_stay_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With data at the start, within a page, across pieces, and none at the end."""
    size = int(os.environ.get("EM_TEST_HOLES_MIB", "40")) * MIB
    sparse = Path("sparse")
    with sparse.open("wb") as file:
        for offset in (0, 5 * MIB + 17, 20 * MIB - 3, size - 12 * MIB):
            file.seek(offset)
            file.write(os.urandom(70_000))
        file.truncate(size)
    dense = Path("dense")
    dense.write_bytes(bytes(5 * MIB))
    Path("hole").touch()
    os.truncate("hole", 3 * MIB)
    monkeypatch.setenv("EM_LINK_MODE", "copy")
    artifact = em.create_artifact("x")
    for path in (sparse, dense, Path("hole")):
        artifact.add_file(path)
    _engine.materialize(".em/store", "loaded", _engine.read_manifest(artifact.local))
    for local in (Path(artifact.local), Path("loaded")):
        status = (local / "sparse").stat()
        assert (status.st_size, status.st_nlink) == (size, 1)
        assert status.st_blocks * 512 < MIB
        assert (local / "hole").stat().st_blocks * 512 <= 4096
        assert (local / "dense").stat().st_blocks * 512 >= 5 * MIB
        assert problems(em.load_artifact(artifact.local)) == []
        assert subprocess.run(["cmp", "sparse", local / "sparse"], check=False).returncode == 0
        assert (local / "hole").read_bytes() == bytes(3 * MIB)


def test_other_file_system_that_is_full(
    small_disk: Callable[[int], Path], source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("t9k.em.linked._has_told_of_copies", False)
    Path("large").write_bytes(os.urandom(5 * MIB))
    disk = small_disk(8)
    monkeypatch.setenv("EM_ARTIFACT_PARENT_DIR", str(disk))
    artifact = em.create_artifact("x")
    with caplog.at_level(logging.INFO, "t9k.em"):
        artifact.add_dir(source)
        artifact.add_dir(source, "again")
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "are copied" in told[0]
    assert "EM_STORE_DIR" in told[0]
    assert "0 files reflinked, 0 hardlinked, 3 copied (3.0 MiB)" in caplog.text
    before = contents(artifact)
    with pytest.raises(StoreError) as caught:
        artifact.add_file("large", "source/b")
    assert caught.value.errno == errno.ENOSPC
    assert contents(artifact) == before
    assert problems(artifact) == problems() == leftovers(artifact) == []
    Path("again").write_text("room for this")
    artifact.add_file("again", "source/b")
    assert contents(artifact) == before | {"source/b": b"room for this"}


def test_read_only_file_system_is_an_error(small_disk: Callable[[int], Path], source: Path) -> None:
    into = small_disk(8)
    artifact = em.create_artifact("x")
    artifact.add_dir(source)
    entries = [(one["path"], bytes.fromhex(one["digest"]), False) for one in artifact.objects]
    subprocess.run(["mount", "-o", "remount,ro", str(into)], check=True)
    with pytest.raises(_engine.EngineError, match=f"{into}/source") as caught:
        _engine.link_entries(".em/store", str(into), entries)
    assert (caught.value.kind, caught.value.errno) == ("store", errno.EROFS)


@pytest.mark.parametrize("parent", ["apart", ".em/artifacts"])
def test_artifact_that_is_not_mounted_keeps_its_objects(
    parent: str, small_disk: Callable[[int], Path], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, at = small_disk(20), Path(parent).absolute()
    at.mkdir(parents=True)
    monkeypatch.setenv("EM_ARTIFACT_PARENT_DIR", str(at))
    mount = ["mount", "--bind", str(disk), str(at)]
    subprocess.run(mount, check=True)
    try:
        artifact, gone = em.create_artifact("x"), em.create_artifact("gone")
        artifact.add_dir(source)
        Path("other").write_text("other")
        gone.add_file("other")
        assert _engine.gc(".em/store", 0, False)["unreachable_objects"] == 0
        subprocess.run(["rm", "-r", gone.local], check=True)
        subprocess.run(["umount", str(at)], check=True)
        for dry_run in (True, False):
            with pytest.raises(_engine.EngineError, match="cannot be reached") as caught:
                _engine.gc(".em/store", 0, dry_run)
            assert caught.value.kind == "not_found"
        # Nor does another directory there count.
        (at / Path(artifact.local).name).mkdir()
        with pytest.raises(_engine.EngineError, match="cannot be reached"):
            _engine.gc(".em/store", 0, False)
        (at / Path(artifact.local).name).rmdir()
        subprocess.run(mount, check=True)
        done = _engine.gc(".em/store", 0, False)
        assert (done["unreachable_objects"], done["deleted_objects"]) == (1, 1), "what was deleted while it was mounted"
        assert contents(artifact) == tree("source")
        assert problems(artifact) == problems() == []
    finally:
        subprocess.run(["umount", str(at)], check=False)
    with pytest.raises(NotFoundError):
        em.load_artifact(artifact.local)


@pytest.mark.parametrize("at", ["elsewhere/x", ".em/artifacts/x"])
def test_artifact_that_is_a_file_system_of_its_own_keeps_its_objects(
    at: str, small_disk: Callable[[int], Path], source: Path
) -> None:
    disk, local = small_disk(20), Path(at).absolute()
    local.mkdir(parents=True)
    subprocess.run(["mount", "--bind", str(disk), str(local)], check=True)
    try:
        _engine.create_artifact(str(local))
        _engine.add_dir(".em/store", str(local), str(source), "source")
    finally:
        subprocess.run(["umount", str(local)], check=True)
    with pytest.raises(_engine.EngineError, match="cannot be reached"):
        _engine.gc(".em/store", 0, False)
    # The record that the error names is how to give it up.
    (root,) = Path(".em/store/roots").iterdir()
    root.unlink()
    assert _engine.gc(".em/store", 0, False)["deleted_objects"] == len(tree("source"))


@pytest.mark.usefixtures("strace")
def test_condemned_object_that_can_have_no_more_names_is_restored(source: Path) -> None:
    gone = em.create_artifact("gone")
    gone.add_dir(source)
    objects = [(bytes.fromhex(one["digest"]), int(one["size"])) for one in gone.objects]
    subprocess.run(["rm", "-r", gone.local], check=True)
    assert _engine.gc(".em/store", 3600, False)["unreachable_objects"] == 3
    assert not any(_engine.usable(".em/store", *one) for one in objects)

    def work() -> None:
        _engine.gc(".em/store", 3600, False)

    with _engine.Lease(".em/store"):
        ended = traced(work, "--trace=linkat,renameat2", "--inject=linkat:error=EMLINK")
    assert ended.ok, ended.message
    assert all(_engine.usable(".em/store", *one) for one in objects)
    assert problems() == []


def test_equal_files() -> None:
    """EM_TEST_LINKS of them: of more than 65,000 not each can be a name of the object on ext4."""
    count = int(os.environ.get("EM_TEST_LINKS", "300"))
    Path("source").mkdir()
    for number in range(count):
        path = Path("source", str(number))
        if number % 60_000:
            path.hardlink_to(f"source/{number // 60_000 * 60_000}")
        else:
            path.write_text("all the same")
    artifact = em.create_artifact("x")
    artifact.add_dir("source")
    artifact.add_dir("source")
    _engine.materialize(".em/store", "loaded", _engine.read_manifest(artifact.local))
    for local in (artifact.local, "loaded"):
        inodes = {path.stat().st_ino for path in Path(local, "source").iterdir()}
        assert len(os.listdir(Path(local, "source"))) == count
        print(local, len(inodes), "inodes")
        assert list(_engine.verify(".em/store", local)["problems"]) == []
    assert _engine.gc(".em/store", 0, False)["unreachable_objects"] == 0
    assert leftovers(artifact) == problems() == []

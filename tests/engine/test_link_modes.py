"""How objects come to paths, on file systems that share blocks and on one that does not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import oracle
import pytest
from t9k import em
from t9k.em import _engine
from t9k.em.errors import StoreError

CONTENT = os.urandom(300_001)
OTHER = os.urandom(300_001)
# The kernel may share the blocks of what it copies.
COPIED = "copy or reflink"


@pytest.fixture
def mount(
    request: pytest.FixtureRequest,
    file_system: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """A fresh file system of the asked kind, and the working directory on it."""
    point = file_system(request.param)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("EM_LINK_MODE", raising=False)
    with contextlib.chdir(point):
        yield point


def blocks(path: Path) -> list[int]:
    """Where the bytes lie on the device, by the ioctl FS_IOC_FIEMAP."""
    with path.open("rb") as file:
        request = bytearray(struct.pack("<QQIIII", 0, (1 << 64) - 1, 1, 0, 64, 0) + bytes(64 * 56))
        fcntl.ioctl(file, 0xC020660B, request)
    (count,) = struct.unpack_from("<I", request, 20)
    return [struct.unpack_from("<QQ", request, 32 + 56 * index)[1] for index in range(count)]


def object_of(content: bytes) -> Path:
    name = oracle.digest(content)
    return Path(".em/store/objects", name[:2], name[2:])


def mode_of(path: Path) -> str:
    """How a path with `CONTENT` came to be."""
    target = object_of(CONTENT)
    if path.stat().st_ino == target.stat().st_ino:
        return "hardlink"
    return "reflink" if blocks(path) == blocks(target) else "copy"


def add(content: bytes = CONTENT, permissions: int = 0o644) -> Path:
    source = Path("source")
    source.write_bytes(content)
    source.chmod(permissions)
    artifact = em.create_artifact("x")
    artifact.add_file("source", "d/file")
    return Path(artifact.local, "d/file")


@pytest.mark.parametrize(
    ("mount", "forced", "expected"),
    [
        ("xfs", None, "reflink"),
        ("xfs", "reflink", "reflink"),
        ("xfs", "hardlink", "hardlink"),
        ("xfs", "copy", COPIED),
        ("btrfs", None, "reflink"),
        ("btrfs", "hardlink", "hardlink"),
        ("btrfs", "copy", COPIED),
        ("ext4", None, "hardlink"),
        ("ext4", "copy", "copy"),
    ],
    indirect=["mount"],
)
@pytest.mark.usefixtures("mount")
def test_link_mode(forced: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if forced:
        monkeypatch.setenv("EM_LINK_MODE", forced)
    path = add()
    assert mode_of(path) in expected
    assert path.stat().st_mode & 0o777 == (0o444 if expected == "hardlink" else 0o644)
    script = add(permissions=0o755)
    assert mode_of(script) in (COPIED if expected == "hardlink" else expected)
    assert script.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("mount", ["xfs", "btrfs"], indirect=True)
@pytest.mark.parametrize("mode", ["reflink", "hardlink", "copy"])
@pytest.mark.usefixtures("mount")
def test_replacing_never_writes_through(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_LINK_MODE", mode)
    path, other = add(), add()
    artifact = em.load_artifact(str(path.parents[1]))
    with path.open("rb") as open_before:
        Path("source").write_bytes(OTHER)
        artifact.add_file("source", "d/file")
        assert open_before.read() == CONTENT
    assert path.read_bytes() == OTHER
    assert other.read_bytes() == object_of(CONTENT).read_bytes() == CONTENT
    assert object_of(OTHER).read_bytes() == OTHER
    assert list(_engine.verify(".em/store")["problems"]) == []


@pytest.mark.parametrize("mount", ["xfs", "btrfs"], indirect=True)
@pytest.mark.usefixtures("mount")
def test_a_user_who_writes_to_a_reflinked_path_damages_only_that_path() -> None:
    path, other = add(), add()
    with path.open("r+b") as file:
        file.write(b"mine")
    assert other.read_bytes() == object_of(CONTENT).read_bytes() == CONTENT
    assert list(_engine.verify(".em/store")["problems"]) == []
    (problem,) = _engine.verify(".em/store", str(path.parents[1]))["problems"]
    assert (problem["kind"], problem["thing"], problem["path"]) == ("damaged", "file", str(path))


@pytest.mark.parametrize("mount", ["ext4"], indirect=True)
@pytest.mark.usefixtures("mount")
def test_forced_reflink_where_there_is_none_is_an_error_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_LINK_MODE", "reflink")
    artifact = em.create_artifact("x")
    Path("source").write_bytes(CONTENT)
    with pytest.raises(StoreError):
        artifact.add_file("source", "d/file")
    assert artifact.objects == []
    assert not Path(artifact.local, "d/file").exists()
    assert list(_engine.verify(".em/store", artifact.local)["problems"]) == []


@pytest.mark.parametrize("mount", ["xfs"], indirect=True)
def test_an_artifact_on_another_file_system_is_copied(
    mount: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_ARTIFACT_PARENT_DIR", str(tmp_path / "artifacts"))
    path = add()
    assert path.stat().st_dev != mount.stat().st_dev
    assert path.read_bytes() == CONTENT
    monkeypatch.setenv("EM_LINK_MODE", "hardlink")
    with pytest.raises(StoreError):
        add()


@pytest.mark.parametrize("mount", ["btrfs of few links"], indirect=True)
@pytest.mark.usefixtures("mount")
def test_object_with_as_many_names_as_there_can_be_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 16 kB fit the names of some sixty files; ext4 has room for 65,000."""
    content = CONTENT[:1000]
    monkeypatch.setenv("EM_LINK_MODE", "hardlink")
    Path("source").mkdir()
    names = {f"{number:03}{'n' * 247}" for number in range(120)}
    for name in names:
        Path("source", name).write_bytes(content)
    Path("source/other").write_bytes(OTHER)
    first = em.create_artifact("x")
    first.add_dir("source")
    files = Path(first.local, "source")
    inodes = [path.stat().st_ino for path in files.iterdir()]
    assert 2 < inodes.count(object_of(content).stat().st_ino) < 100
    assert inodes.count(object_of(OTHER).stat().st_ino) == 1, "one that was copied says nothing of the next"
    assert {path.name for path in files.iterdir()} == names | {"other"}
    assert {path.read_bytes() for path in files.iterdir()} == {content, OTHER}
    first.add_dir("source")  # over what is there
    loaded = Path("loaded").absolute()
    _engine.materialize(".em/store", str(loaded), _engine.read_manifest(first.local))
    for local in (first.local, str(loaded)):
        assert list(_engine.verify(".em/store", local)["problems"]) == []
    assert not list(Path(".em").rglob(".tmp-*"))

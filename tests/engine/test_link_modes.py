"""How objects come to paths, on file systems that share blocks and on one that does not."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import oracle
import pytest
from t9k import em
from t9k.em import _engine
from t9k.em.errors import StoreError

MAKE = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "ext4": ["mkfs.ext4", "-q"],
}
CONTENT = os.urandom(300_001)
OTHER = os.urandom(300_001)
# The kernel may share the blocks of what it copies.
COPIED = "copy or reflink"


@pytest.fixture
def mount(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh file system of the asked kind, and the working directory on it."""
    command = MAKE[request.param]
    if os.geteuid():
        pytest.skip("only root can mount")
    if shutil.which(command[0], path=f"{os.environ['PATH']}:/sbin:/usr/sbin") is None:
        pytest.skip(f"{command[0]} is missing")
    image, point = tmp_path / "image", tmp_path / "mount"
    with image.open("wb") as file:
        file.truncate(400 << 20)
    point.mkdir()
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/sbin:/usr/sbin"}
    subprocess.run([*command, str(image)], check=True, env=environment, stdout=subprocess.DEVNULL)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(point)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.strip()}")
    try:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.delenv("EM_LINK_MODE", raising=False)
        monkeypatch.chdir(point)
        yield point
    finally:
        os.chdir(tmp_path)
        subprocess.run(["umount", str(point)], check=True)


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

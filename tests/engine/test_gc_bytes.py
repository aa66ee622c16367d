"""What `gc` says first is what the disk has more of afterwards, in blocks as `stat` counts them."""

import os
import shutil
from pathlib import Path

import pytest
from t9k import em
from t9k.em import _engine


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def blocks_bytes() -> int:
    """Bytes on the disk of all files below here, each inode once."""
    found = {}
    for directory, _, names in os.walk("."):
        for name in names:
            stat = os.lstat(os.path.join(directory, name))
            found[stat.st_dev, stat.st_ino] = stat.st_blocks * 512
    return sum(found.values())


@pytest.mark.parametrize("mode", ["hardlink", "copy"])
def test_dry_run_tells_exactly_what_gc_frees(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_LINK_MODE", mode)
    os.makedirs("source")
    sizes = {
        "empty": 0,
        "one": 1,
        "page": 4096,
        "more": 4097,
        "chunked": 3_000_001,
        "shared": 700_000,
        "taken": 900_000,
    }
    for number, (name, size) in enumerate(sizes.items()):
        Path("source", name).write_bytes(os.urandom(size) if size < 4_000_000 else bytes([number]) * size)
    with Path("source/holes").open("wb") as file:
        file.truncate(50 << 20)
        file.write(b"head")
    gone, kept = em.create_artifact("gone"), em.create_artifact("kept")
    gone.add_dir("source")
    kept.add_file("source/shared")
    shutil.copy("source/one", "elsewhere")
    os.link(Path(gone.local, "source/taken"), "taken")
    shutil.rmtree(gone.local)

    planned = _engine.gc(".em/store", 0, True)
    before = blocks_bytes()
    done = _engine.gc(".em/store", 0, False)
    assert done["freed_bytes"] == planned["reclaimable_bytes"] == before - blocks_bytes() > 3_000_000
    assert done["deleted_objects"] == planned["unreachable_objects"] == len(sizes)
    assert _engine.gc(".em/store", 0, True)["reclaimable_bytes"] == 0
    assert list(_engine.verify(".em/store")["problems"]) == []


def test_what_was_set_aside_is_counted_until_it_is_deleted() -> None:
    Path("file").write_bytes(os.urandom(2_000_000))
    gone = em.create_artifact("gone")
    gone.add_file("file")
    shutil.rmtree(gone.local)
    planned = _engine.gc(".em/store", 3600, True)
    before = blocks_bytes()
    assert _engine.gc(".em/store", 3600, False)["freed_bytes"] == 0
    assert _engine.gc(".em/store", 3600, True) == planned
    assert blocks_bytes() == before
    assert _engine.gc(".em/store", 0, False)["freed_bytes"] == planned["reclaimable_bytes"] == before - blocks_bytes()

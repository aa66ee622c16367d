"""Files that change while they are read: read once more, then an error that names them."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from t9k import em
from t9k.em import _engine
from t9k.em.errors import EmError

from .conftest import contents, leftovers, problems, traced

MIB = 1 << 20


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def write(path: Path) -> None:
    """As many bytes as before, all of them others."""
    changed = np.fromfile(path, np.uint8) + 1
    with path.open("r+b") as file:
        file.write(changed.tobytes())


def touch(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns - 1_000_000_007))


def make_executable(path: Path) -> None:
    path.chmod(path.stat().st_mode ^ 0o100)


def link(path: Path) -> None:
    os.link(path, f"link-{len(list(Path().glob('link-*')))}")


def move_away_and_back(path: Path) -> None:
    path.rename("elsewhere")
    Path("elsewhere").rename(path)


def replace(path: Path) -> None:
    """Another file of the same name, as who saves a checkpoint safely makes it."""
    changed = np.fromfile(path, np.uint8)[:-5] + 1
    Path("following").write_bytes(changed.tobytes())
    Path("following").rename(path)


def remove(path: Path) -> None:
    path.unlink()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES = (append, cut, write, touch, make_executable, link, move_away_and_back, replace)


def change(path: Path, how: Callable[[Path], None]) -> None:
    """Changes a file until it shows: the clock of times has ticks."""

    def shown() -> tuple[int, ...] | None:
        stat = path.stat() if path.is_file() else None
        return stat and (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)

    before = shown()
    while shown() == before:
        how(path)


def data(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


@dataclass
class Outcome:
    artifact: em.Artifact
    error: str | None
    message: str


def add_each(
    changes: tuple[Callable[[Path], None], ...], size: int, changes_at: Callable[[int], bool]
) -> dict[str, Outcome]:
    """Adds a file for each of the changes, and makes it while nothing runs, behind reads of these numbers."""
    for how in changes:
        Path(how.__name__).mkdir()
        Path(how.__name__, "model").write_bytes(data(size))
    stops: Counter[str] = Counter()

    def work() -> None:
        outcomes = {}
        for how in changes:
            Path("now").write_text(how.__name__)
            artifact = em.create_artifact("x")
            try:
                artifact.add_dir(how.__name__)
                outcomes[how.__name__] = (artifact.local, None, "")
            except EmError as error:
                outcomes[how.__name__] = (artifact.local, type(error).__name__, str(error))
        Path("outcomes").write_text(json.dumps(outcomes))

    def at_read() -> None:
        name = Path("now").read_text()
        stops[name] += 1
        if changes_at(stops[name]):
            (how,) = (how for how in changes if how.__name__ == name)
            change(Path(name, "model"), how)

    victims = [f"--trace-path={Path(how.__name__, 'model').absolute()}" for how in changes]
    ended = traced(work, "--trace=pread64", "--inject=pread64:signal=STOP", *victims, at_stop=at_read)
    assert ended.ok, ended
    assert set(stops) == {how.__name__ for how in changes}
    outcomes = json.loads(Path("outcomes").read_text())
    return {name: Outcome(em.load_artifact(local), *error) for name, (local, *error) in outcomes.items()}


def check_nothing_added(artifact: em.Artifact) -> None:
    assert artifact.objects == []
    assert problems(artifact) == leftovers(artifact) == []


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("each_time", [False, True], ids=["once", "each time"])
@pytest.mark.parametrize(
    ("size", "threads", "is_stored", "read"),
    [
        pytest.param(1000, 1, False, 1, id="small"),
        pytest.param(MIB, 1, False, 1, id="one block"),
        # Behind the sketch and one of the two blocks.
        pytest.param(2 * MIB - 7, 2, False, 5, id="large, of two threads"),
        pytest.param(2 * MIB - 7, 2, True, 4, id="large, looks like a stored one"),
    ],
)
def test_file_that_changes(
    size: int, threads: int, is_stored: bool, read: int, each_time: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EM_THREADS", str(threads))
    if is_stored:
        Path("stored").write_bytes(data(size))
        em.create_artifact("stored").add_file("stored")
    for name, outcome in add_each(CHANGES, size, lambda number: each_time or number == read).items():
        artifact, path = outcome.artifact, Path(name, "model")
        if each_time:
            assert outcome.error == "ConflictError"
            assert f"{path} changed while it was read, twice" in outcome.message
            check_nothing_added(artifact)
            continue
        assert outcome.error is None, (name, outcome.message)
        assert contents(artifact) == {str(path): path.read_bytes()}
        is_executable = bool(path.stat().st_mode & 0o100)
        (entry,) = artifact.objects
        assert (entry["digest"], entry["executable"]) == (_engine.hash_file(str(path)), str(is_executable)), name
        assert bool(Path(artifact.local, path).stat().st_mode & 0o100) == is_executable, name
        assert problems(artifact) == leftovers(artifact) == []
    assert problems() == []


@pytest.mark.usefixtures("strace")
def test_file_that_is_no_file_any_more_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_THREADS", "1")
    outcomes = add_each((remove, make_pipe), 1000, lambda number: number == 1)
    assert {name: outcome.error for name, outcome in outcomes.items()} == {
        "remove": "NotFoundError",
        "make_pipe": "ConflictError",
    }
    assert "make_pipe/model became a special file" in outcomes["make_pipe"].message
    assert "remove/model" in outcomes["remove"].message
    for outcome in outcomes.values():
        check_nothing_added(outcome.artifact)

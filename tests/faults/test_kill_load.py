"""A load that is killed or hindered leaves no artifact or the whole one, and the next load completes it."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from chunks import pieces_of, table_of
from t9k import em
from t9k.em import _engine

from .conftest import CALLS, Child, contents, points, problems, traced

STORE, TARGET = ".em/store", ".em/artifacts/loaded"
METADATA = json.dumps({"name": "x", "labels": [], "alternative_name": "loaded", "remote": []}).encode()


class Origin:
    """What a server would send: manifest, chunk tables and packs."""

    def __init__(self) -> None:
        Path("source/deep").mkdir(parents=True)
        Path("source/hollow").mkdir()
        Path("source/large").write_bytes(os.urandom(700_000))
        Path("source/deep/small").write_text("small")
        Path("source/run.sh").write_text("#!/bin/sh\n")
        Path("source/run.sh").chmod(0o755)
        Path("source/empty").touch()
        _engine.create_artifact("origin/x")
        _engine.add_dir("origin/store", "origin/x", "source", "")
        self.manifest = _engine.read_manifest("origin/x")
        digests, sizes = _engine.manifest_objects(self.manifest)
        names = [digests[at : at + 32] for at in range(0, len(digests), 32)]
        self.objects = list(zip(names, struct.unpack(f"<{len(names)}Q", sizes), strict=True))
        self.tables = {name: table_of("origin/store", name) for name in names}
        plan = _engine.PackPlan("origin/store", [(name, pieces_of("origin/store", name)) for name in names])
        self.pack, self.chunks, _ = plan.build(0)
        self.rows = list(struct.iter_unpack("<32sQII", _engine.verify_pack(self.pack)[1]))

    def runs(self) -> Iterator[memoryview]:
        """Each record by itself."""
        for _, offset, length, _ in self.rows:
            yield memoryview(self.pack)[offset : offset + length]

    def load(self) -> None:
        with _engine.Assembly(STORE) as assembly:
            for name, size in self.objects:
                assembly.add(name, size, self.tables[name])
            for run in self.runs():
                assembly.take_records(run)
            _engine.materialize(STORE, TARGET, self.manifest, METADATA)


@pytest.fixture
def origin(monkeypatch: pytest.MonkeyPatch) -> Origin:
    monkeypatch.setenv("EM_THREADS", "1")
    return Origin()


def fresh() -> None:
    shutil.rmtree(".em", ignore_errors=True)


def check_whole(origin: Origin) -> None:
    artifact = em.load_artifact(TARGET)
    expected = {str(p.relative_to("source")): p.read_bytes() for p in Path("source").rglob("*") if p.is_file()}
    assert contents(artifact) == expected
    assert Path(TARGET, "hollow").is_dir()
    assert os.access(Path(TARGET, "run.sh"), os.X_OK)
    assert _engine.read_manifest(TARGET) == origin.manifest
    assert problems(artifact) == []


def check_after(origin: Origin) -> None:
    """Nothing or all of it; the next load ends well; nothing is left behind."""
    if Path(TARGET).exists():
        check_whole(origin)
    if Path(STORE).exists():
        assert [problem for problem in problems() if problem["kind"] != "stray"] == []
    origin.load()
    check_whole(origin)
    _engine.gc(STORE, 0, False)
    assert problems() == []
    assert [str(path) for path in Path(".em").rglob(".tmp-*")] == []
    assert list(Path(STORE, "leases").iterdir()) == []
    # An intent of the killed one may be left where the artifact was whole already; loading has settled it.
    assert sorted(path.name for path in Path(TARGET, ".artifact").iterdir()) == ["manifest-0000000001", "metadata.json"]


def writes(origin: Origin, calls: str) -> list[tuple[str, int]]:
    log = traced(origin.load, f"--trace={calls}").log
    return list(points(log, lambda call, line: call != "openat" or "O_CREAT" in line))


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("mode", ["hardlink", "copy"])
def test_load_killed_at_every_write(origin: Origin, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_LINK_MODE", mode)
    every = list(
        points(traced(origin.load, f"--trace={CALLS}").log, lambda call, line: call != "openat" or "O_CREAT" in line)
    )
    check_whole(origin)
    assert len(every) > 30
    for call, when in every:
        fresh()
        ended = traced(origin.load, f"--trace={call}", f"--inject={call}:signal=KILL:when={when}")
        assert ended.signal == 9, (call, when, ended)
        try:
            check_after(origin)
        except Exception as error:
            error.add_note(f"killed at {call} {when}")
            raise


@pytest.mark.usefixtures("strace")
def test_load_refused_at_every_write_is_a_typed_error_or_whole(origin: Origin) -> None:
    calls = "openat,write,pwrite64,ftruncate,renameat,renameat2,rename,linkat,link,mkdir,mkdirat"
    every = list(
        points(traced(origin.load, f"--trace={calls}").log, lambda call, line: call != "openat" or "O_CREAT" in line)
    )
    assert len(every) > 20
    for call, when in every:
        fresh()
        ended = traced(origin.load, f"--trace={call}", f"--inject={call}:error=ENOSPC:when={when}")
        assert not ended.signal, (call, when, ended)
        assert ended.error in (None, "EngineError"), (call, when, ended)
        try:
            assert ended.ok == Path(TARGET).exists()
            check_after(origin)
        except Exception as error:
            error.add_note(f"refused at {call} {when}: {ended.message}")
            raise


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize("is_gone", [False, True])
def test_lease_that_was_lost_is_noticed_after_the_rename(origin: Origin, is_gone: bool) -> None:
    """Another host took it for stale: what `gc` left of the objects is looked at again."""
    log = traced(origin.load, "--trace=statx,newfstatat,rename,renameat,renameat2").log
    ((call, when),) = points(log, lambda call, line: call == "statx" and "/leases/" in line)
    asked = next(line for line in log.splitlines() if " statx(" in line and "/leases/" in line)
    thread = asked.split()[0]
    before = [line for line in log.partition(asked)[0].splitlines() if line.startswith(f"{thread} ")]
    assert any(f'"{TARGET}"' in line and "rename" in line for line in before)
    looked = sum("newfstatat(" in line for line in before)
    fresh()
    options = [f"--inject={call}:error=ENOENT:when={when}"]
    if is_gone:
        options.append(f"--inject=newfstatat:error=ENOENT:when={looked + 1}+")
    ended = traced(origin.load, "--trace=statx,newfstatat", *options)
    assert ended.ok == Path(TARGET).exists() == (not is_gone), ended
    if is_gone:
        assert "lacks object" in ended.message
    check_after(origin)


def test_loads_beside_each_other_and_gc_end_whole(origin: Origin) -> None:
    """Several processes load one artifact to one place while others collect what nothing names."""

    def loads() -> None:
        for _ in range(10):
            shutil.rmtree(TARGET, ignore_errors=True)
            try:
                origin.load()
            except _engine.EngineError as error:
                # Another one removed the directory while this one made it.
                if error.kind not in ("not_found", "conflict"):
                    raise

    def collects() -> None:
        for _ in range(40):
            _engine.gc(STORE, 0, False)

    origin.load()
    children = [Child(work) for work in (loads, loads, collects, collects)]
    for child in children:
        child.go()
    for child in children:
        ended = child.join()
        assert ended.ok, ended
    check_after(origin)

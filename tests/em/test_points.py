"""Points in columns: the same as dicts, whatever the lines look like; and data frames of them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from t9k.em.dataframe import make_columns
from t9k.em.errors import InvalidInputError
from t9k.em.metrics import encode_line, read_metrics
from t9k.em.points import Block, Points
from t9k.em.run import Run, create_run

STAMP = "2026-01-01T00:00:00.000Z"
NUMBERS = st.one_of(st.floats(), st.integers(-(2**70), 2**70))
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
SHAPES = st.lists(NAMES, min_size=1, max_size=4, unique=True)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "train.yaml"


@settings(max_examples=300, deadline=None)
@given(SHAPES, st.data(), st.one_of(st.none(), st.integers(0, 5)))
def test_lines_of_one_shape_read_back_exactly(names: list[str], data: st.DataObject, epoch: int | None) -> None:
    rows = data.draw(st.lists(st.lists(NUMBERS, min_size=len(names), max_size=len(names)), min_size=1, max_size=8))
    lines = [encode_line(dict(zip(names, row, strict=True)), i, epoch, STAMP) for i, row in enumerate(rows)]
    _compare(b"".join(lines), [dict(zip(names, row, strict=True)) for row in rows], epoch)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=3), min_size=1, max_size=6))
def test_lines_of_many_shapes_read_back_exactly(rows: list[dict[str, Any]]) -> None:
    _compare(b"".join(encode_line(row, i, None, STAMP) for i, row in enumerate(rows)), rows, None)


def _compare(data: bytes, rows: list[dict[str, Any]], epoch: int | None) -> None:
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        read = read_metrics(file.name)
    assert (read.damaged_lines, read.torn_bytes, len(read.points)) == (0, 0, len(rows))
    for index, (point, row) in enumerate(zip(read.points, rows, strict=True)):
        assert repr(point["metrics"]) == repr(row)  # NaN is not equal to itself, 1 is to 1.0
        at = {"step": index} | ({} if epoch is None else {"epoch": epoch}) | {"timestamp": STAMP}
        assert point["at"] == at


def test_names_that_look_like_the_format_are_read(path: Path) -> None:
    names = ['": ', '{"metrics": {', '"}}\n', ', "at": {"step": ', "step", "timestamp", ": {", ":"]
    lines = [encode_line(dict.fromkeys(names, value), value, None, STAMP) for value in range(50)]
    path.write_bytes(b"".join(lines))
    assert read_metrics(str(path)).points == [
        {"metrics": dict.fromkeys(names, value), "at": {"step": value, "timestamp": STAMP}} for value in range(50)
    ]


@pytest.mark.parametrize(
    "damage",
    [
        b"x\n",
        b'- {"metrics": {"a": 1}, "at": 3}\n',
        b'- {"metrics": {"a": , "at": {"step": 1}}\n',
        b"\x00\xff\n",
        b"[\n",
    ],
)
def test_damaged_line_between_good_ones_is_counted(path: Path, damage: bytes) -> None:
    good = encode_line({"a": 1.5}, 1, None, STAMP)
    path.write_bytes(good * 10 + damage + good * 10 + b"- {torn")
    read = read_metrics(str(path))
    assert (len(read.points), read.damaged_lines, read.torn_bytes) == (20, 1, 7)


def test_regular_file_is_read_in_columns_and_sequence_works(path: Path) -> None:
    path.write_bytes(b"".join(encode_line({"a": i * 0.5, "b": i}, i, 0, STAMP) for i in range(1000)))
    points = read_metrics(str(path)).points
    assert [type(part) for part in points._parts] == [Block]
    assert points[-1] == points[999] == list(points)[999]
    assert points[10:13] == list(points)[10:13]
    assert points == list(points)
    assert points != list(points)[1:]
    assert points.column("b") == points.at("step") == list(range(1000))
    assert points.column("missing") == [None] * 1000
    assert points.at("timestamp")[5] == STAMP
    with pytest.raises(IndexError):
        points[1000]
    assert "a, b" in repr(points)


def test_points_in_columns_stay_small(path: Path) -> None:
    import tracemalloc

    line = [encode_line({"loss": 1 / (i + 1)}, i, 0, STAMP) for i in range(1000)]
    path.write_bytes(b"".join(line) * 100)
    tracemalloc.start()
    try:
        points = read_metrics(str(path)).points
        size_bytes, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(points) == 100_000
    assert size_bytes < 100 * len(points)
    assert peak_bytes < 30 << 20


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(tmp_path / "runs"))
    run = create_run()
    run.log("train", {"loss": 0.5}, 1, 1)
    run.log("train", {"loss": 0.25, "step": 7}, 2)
    run.log("val", {"acc": 1}, 2)
    return run


def test_metrics_are_read_when_asked_for(run: Run) -> None:
    metrics = run.metrics
    Path(run.local, "metrics", "val.yaml").unlink()
    assert len(metrics["train"]) == 2
    assert json.dumps(metrics["train"][1]["metrics"]) == '{"loss": 0.25, "step": 7}'
    assert "train" in repr(metrics)


def test_columns_have_one_length_and_own_names(run: Run) -> None:
    columns = make_columns(run.metrics)
    timestamps = columns.pop("timestamp")
    assert len(timestamps) == 3
    assert columns == {
        "type": ["train", "train", "val"],
        "step": [1, 2, 2],
        "epoch": [1, None, None],
        "loss": [0.5, 0.25, None],
        "metrics.step": [None, 7, None],
        "acc": [None, None, 1],
    }
    assert make_columns({"train": [{"metrics": {"a": math.pi}, "at": {"step": 1}}]})["a"] == [math.pi]


def test_to_dataframe_takes_what_is_installed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setitem(sys.modules, "polars", SimpleNamespace(DataFrame=lambda columns: ("polars", columns)))
    assert run.to_dataframe()[0] == "polars"
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(InvalidInputError, match="not installed"):
        run.to_dataframe()
    with pytest.raises(InvalidInputError, match="not one of"):
        run.to_dataframe("numpy")


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_real_data_frame(run: Run, library: str) -> None:
    pytest.importorskip(library)
    frame = run.to_dataframe(library)
    assert frame.shape == (3, 7)
    assert list(frame["loss"])[:2] == [0.5, 0.25]


def test_points_of_lists_join() -> None:
    points = Points()
    points.add([{"metrics": {"a": 1}, "at": {"step": 1}}])
    points.add([{"metrics": {"b": 2}, "at": {"step": 2, "epoch": 1}}])
    assert points.names() == ["a", "b"]
    assert points.column("b") == [None, 2]
    assert points.at("epoch") == [None, 1]

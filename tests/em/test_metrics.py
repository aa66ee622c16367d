"""Metrics lines: conversion, YAML, the single write, and damaged files."""

from __future__ import annotations

import math
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from t9k.em.errors import InvalidInputError, NotFoundError, StoreError
from t9k.em.metrics import (
    MetricsWriter,
    canonical_type,
    encode_line,
    read_metrics,
    repair_torn_line,
    to_number,
)

NOW = "2026-01-02T03:04:05.678Z"


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "train.yaml")


@pytest.mark.parametrize(
    ("alias", "expected"),
    [("train", "train"), ("training", "train"), ("val", "val"), ("validate", "val"), ("validation", "val")]
    + [(name, "test") for name in ("test", "testing", "eval", "evaluate", "evaluation")]
    + [("my type", "my type"), ("система", "система")],
)
def test_canonical_type_of_aliases_and_custom_names(alias: str, expected: str) -> None:
    assert canonical_type(alias) == expected


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a\0", "a\n", "x" * 201, "\ud800", "\u202e", 3])
def test_canonical_type_that_cannot_name_a_file_is_refused(name: object) -> None:
    with pytest.raises(InvalidInputError, match="metrics type"):
        canonical_type(name)


def test_to_number_of_numpy_scalars_and_one_element_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    for value in (numpy.float32(0.5), numpy.array(0.5), numpy.array([[0.5]]), numpy.float64(0.5)):
        assert to_number("loss", value) == 0.5
        assert type(to_number("loss", value)) is float
    assert type(to_number("n", numpy.int64(3))) is int


def test_to_number_of_a_tensor_without_item_uses_numpy() -> None:
    tensor = SimpleNamespace(shape=(1,), numpy=lambda: SimpleNamespace(item=lambda: 1.5))
    assert to_number("loss", tensor) == 1.5


@pytest.mark.parametrize(
    "value",
    [
        True,
        "1",
        None,
        [1],
        1j,
        SimpleNamespace(shape=(2,), item=lambda: 1.0),
        SimpleNamespace(shape=(), item=lambda: True),
        SimpleNamespace(shape=(None,)),
        SimpleNamespace(shape=()),
    ],
)
def test_to_number_of_anything_else_names_the_metric(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="'val_loss'"):
        to_number("val_loss", value)


@pytest.mark.parametrize(
    "value", [0, -1, 10**30, 0.1, 1e-05, 1e300, 1.5e-7, -0.0, math.inf, -math.inf, math.nan, 5e-324]
)
def test_line_reads_back_the_same_with_us_and_with_yaml(path: str, value: float) -> None:
    Path(path).write_bytes(encode_line({"x": value, "y": 1}, 3, 2, NOW))
    (point,), damaged, torn = read_metrics(path)
    assert (damaged, torn) == (0, 0)
    (item,) = yaml.safe_load(Path(path).read_bytes())
    for read in (point, item):
        assert read["at"] == {"step": 3, "epoch": 2, "timestamp": NOW}
        assert type(read["metrics"]["x"]) is type(value)
        assert repr(read["metrics"]["x"]) == repr(value)


@pytest.mark.parametrize("name", ['a": .nan, "b', "a\\", "é😀", "\x7f\x85\u2028\ufeff\n", ": .inf}", "{}", "- "])
def test_names_survive_in_yaml_and_json(path: str, name: str) -> None:
    Path(path).write_bytes(encode_line({name: math.nan}, 0, None, NOW) * 2)
    points = read_metrics(path).points
    assert [list(point["metrics"]) for point in points] == [[name], [name]]
    assert list(yaml.safe_load(Path(path).read_bytes())[0]["metrics"]) == [name]


def test_bad_calls_name_what_is_wrong() -> None:
    with pytest.raises(InvalidInputError, match="step"):
        encode_line({"a": 1}, 1.5, None, NOW)
    with pytest.raises(InvalidInputError, match="epoch"):
        encode_line({"a": 1}, 1, "2", NOW)
    for metrics in ({}, {"": 1}, {"x" * 2000: 1}, {3: 1}, {"\ud800": 1}, [1]):
        with pytest.raises(InvalidInputError, match="metric"):
            encode_line(metrics, 1, None, NOW)  # type: ignore[arg-type]


def test_append_is_one_write(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MetricsWriter(path)
    real = os.write
    calls: list[bytes] = []

    def count(fd: int, data: bytes) -> int:
        calls.append(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", count)
    writer.append(encode_line({"a": 1}, 1, None, NOW))
    assert len(calls) == 1
    writer.close()
    writer.close()
    with pytest.raises(StoreError, match="closed"):
        writer.append(b"- {}\n")


def test_append_takes_back_a_half_written_line(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = MetricsWriter(path)
    line = encode_line({"a": 1}, 1, None, NOW)
    writer.append(line)
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
        with pytest.raises(StoreError, match="cannot write"):
            writer.append(line)
    writer.append(line)
    writer.close()
    assert Path(path).read_bytes() == line * 2


def test_append_from_threads_loses_and_mixes_nothing(path: str) -> None:
    writer = MetricsWriter(path)

    def work(step: int) -> None:
        for epoch in range(200):
            writer.append(encode_line({"a": step}, step, epoch, NOW))

    threads = [threading.Thread(target=work, args=(step,)) for step in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    points, damaged, torn = read_metrics(path)
    assert (len(points), damaged, torn) == (1600, 0, 0)


def test_torn_last_line_is_reported_then_repaired(path: str) -> None:
    line = encode_line({"a": 1}, 1, None, NOW)
    for cut in range(1, len(line)):
        Path(path).write_bytes(line * 2 + line[:cut])
        points, damaged, torn = read_metrics(path)
        assert (len(points), damaged, torn) == (2, 0, cut)
        assert repair_torn_line(path) == cut
        assert Path(path).read_bytes() == line * 2
    assert repair_torn_line(path) == 0


def test_damaged_lines_are_left_out_and_counted(path: str) -> None:
    line = encode_line({"a": 1}, 1, None, NOW)
    bad = [b"- 3\n", b"junk\n", b"- " + b"[" * 100_000 + b"\n", b"\xff\n", b"- {}\n- &a [*a]\n"]
    Path(path).write_bytes(line + b"".join(part + line for part in bad))
    points, damaged, _ = read_metrics(path)
    assert (len(points), damaged) == (6, 6)


def test_missing_file_is_not_found(path: str) -> None:
    with pytest.raises(NotFoundError):
        read_metrics(path)
    with pytest.raises(StoreError):
        MetricsWriter(path + "/no/x")


def test_named_pipe_in_place_of_a_metrics_file_is_an_error_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train.yaml")
    with pytest.raises(StoreError, match="no regular file"):
        read_metrics(str(tmp_path / "train.yaml"))

"""Metrics lines: conversion, YAML, the single write, and damaged files."""

from __future__ import annotations

import errno
import math
import os
import random
import resource
import struct
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
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
NOW_NS = 1_767_323_045_678_999_999


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


def test_closed_writer_says_so(path: str) -> None:
    writer = MetricsWriter(path)
    line = encode_line({"a": 1}, 1, None, NOW)
    writer.append(line)
    writer.close()
    writer.close()
    with pytest.raises(StoreError, match=f"^the metrics file {path} is closed$"):
        writer.append(line)
    assert not writer.append_point({"a": 1}, 1, None, NOW_NS)
    assert Path(path).read_bytes() == line


@pytest.fixture
def file_size_limit() -> Iterator[Callable[[int], None]]:
    """Sets the size beyond which the kernel writes no file of this process: a write ends in the midst of a line."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda limit_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_half_written_line_is_taken_back(path: str, file_size_limit: Callable[[int], None]) -> None:
    writer = MetricsWriter(path)
    line = encode_line({"a": 1}, 1, None, NOW)
    writer.append(line)
    for room_bytes in (7, 0):
        file_size_limit(len(line) + room_bytes)
        with pytest.raises(StoreError, match=f"cannot write to the metrics file {path}: ") as caught:
            writer.append(line)
        assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
        assert not writer.append_point({"a": 1}, 1, None, NOW_NS)
        assert Path(path).read_bytes() == line
    file_size_limit(resource.RLIM_INFINITY)
    writer.append(line)
    writer.close()
    assert Path(path).read_bytes() == line * 2


NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20) | st.text("abc :{},-%.", min_size=1)


@given(
    metrics=st.dictionaries(NAMES, st.floats() | st.integers() | st.booleans() | st.none(), max_size=6),
    step=st.integers(),
    epoch=st.none() | st.integers() | st.floats(),
    time_ms=st.integers(0, 4_000_000_000_000),
)
@settings(max_examples=1000, deadline=None)
def test_point_is_the_line_of_encode_line_or_left_to_it(
    writer: tuple[MetricsWriter, str], metrics: dict[str, Any], step: int, epoch: Any, time_ms: int
) -> None:
    """The engine and `encode_line` write the same text; what the engine does not write is beyond what it promises."""
    file, path = writer
    os.truncate(path, 0)
    is_written = file.append_point(metrics, step, epoch, time_ms * 1_000_000 + 999_999)
    numbers = [
        step,
        *([] if epoch is None else [epoch]),
        *(value for value in metrics.values() if type(value) is not float),
    ]
    is_plain = all(name.isascii() and name.isprintable() and not {*name} & {*'"\\'} for name in metrics)
    is_plain &= bool(metrics) and not any(name.startswith(":") for name in metrics)
    is_plain &= all(type(number) is int and -(2**63) <= number < 2**63 for number in numbers)
    assert is_written == is_plain
    if is_written:
        stamp = datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        expected = encode_line(metrics, step, epoch, f"{stamp}.{time_ms % 1000:03d}Z")
        assert Path(path).read_bytes() == expected
    else:
        assert not os.path.getsize(path)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MetricsWriter, str]]:
    path = str(tmp_path_factory.mktemp("points") / "train.yaml")
    file = MetricsWriter(path)
    yield file, path
    file.close()


def test_floats_of_every_magnitude_have_pythons_text(writer: tuple[MetricsWriter, str]) -> None:
    """Shortest digits, fixed or with an exponent as `repr` has it: 100,000 random ones and all powers of ten."""
    generator = random.Random(11)
    bits = (struct.unpack("d", generator.randbytes(8))[0] for _ in range(100_000))
    edges = [float(f"{digits}e{power}") for power in range(-323, 309) for digits in ("1", "-9.5", "1.2345678901234567")]
    values = [value for value in (*bits, *edges, 2.0**53, 5e-324, 1.7976931348623157e308) if math.isfinite(value)]
    file, path = writer
    os.truncate(path, 0)
    for value in values:
        assert file.append_point({"x": value}, 0, None, 0)
    with open(path) as lines:
        found = [line[len('- {"metrics": {"x": ') :].partition("}")[0] for line in lines]
    assert len(found) == len(values)
    wrong = [(value, text) for value, text in zip(values, found, strict=True) if _python_text(value) != text]
    assert wrong == []


def _python_text(value: float) -> str:
    text = repr(value)
    return text.replace("e", ".0e") if "e" in text and "." not in text else text


class Number(int):
    """Of another class, though a number."""


@pytest.mark.parametrize(
    ("metrics", "step", "epoch"),
    [
        ({}, 1, None),
        ([("a", 1)], 1, None),
        (OrderedDict(a=1), 1, None),
        ({"a": True}, 1, None),
        ({"a": Number(1)}, 1, None),
        ({"a": 2**63}, 1, None),
        ({"a": "1"}, 1, None),
        ({1: 1}, 1, None),
        ({"\ud800": 1}, 1, None),
        ({"x" * 1001: 1}, 1, None),
        ({"a": 1}, 1.0, None),
        ({"a": 1}, None, None),
        ({"a": 1}, 1, True),
    ],
)
def test_point_that_needs_more_thought_is_left_alone(
    writer: tuple[MetricsWriter, str], metrics: Any, step: Any, epoch: Any
) -> None:
    file, path = writer
    os.truncate(path, 0)
    assert not file.append_point(metrics, step, epoch, NOW_NS)
    assert not os.path.getsize(path)


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

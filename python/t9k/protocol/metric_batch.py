"""A batch of logged points in columns, as it goes over the wire (`docs/protocol.md`, "Runs").

All of it is little-endian: the counts of points and of names (u32 each); steps, epochs and times (i64 for each point);
then for each name its length (u16), UTF-8, and a value (f64) for each point.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass

MAX_BATCH_BYTES = 8 << 20
MAX_BATCH_POINTS = 100_000
MAX_BATCH_NAMES = 10_000
MAX_METRIC_NAME_BYTES = 1024
MAX_METRIC_TYPE_BYTES = 200

NO_EPOCH = -(2**63)
"""The epoch of a point that has none."""

NOT_LOGGED_BITS = 0x7FF8000000000001
"""The bits of the NaN that stands where a point lacks a metric. A logged NaN has any others."""

NOT_LOGGED: float = struct.unpack("<d", struct.pack("<Q", NOT_LOGGED_BITS))[0]

_COUNTS = struct.Struct("<II")
_LENGTH = struct.Struct("<H")


@dataclass(frozen=True)
class Batch:
    """Points in the order of their logging: item i of each column belongs to point i.

    Attributes:
        steps: `array` of type ``q``.
        epochs: The same; `NO_EPOCH` where there is none.
        times_us: The same; microseconds since 1970.
        values: `array` of type ``d`` by name; `NOT_LOGGED`, by its bits, where the point lacks the metric.
    """

    steps: array[int]
    epochs: array[int]
    times_us: array[int]
    values: dict[str, array[float]]

    def __len__(self) -> int:
        return len(self.steps)


def encode_batch(batch: Batch) -> bytes:
    """The bytes of a batch. Checks nothing: `decode_batch` does."""
    parts = [_COUNTS.pack(len(batch), len(batch.values))]
    parts += [_bytes(column) for column in (batch.steps, batch.epochs, batch.times_us)]
    for name, column in batch.values.items():
        encoded = name.encode()
        parts += [_LENGTH.pack(len(encoded)), encoded, _bytes(column)]
    return b"".join(parts)


def decode_batch(data: bytes) -> Batch:
    """The batch in these bytes. Nothing is allocated for a count that the bytes do not have.

    Raises:
        ValueError: They are no batch, or one that no client may send; the message says why.
    """
    if len(data) > MAX_BATCH_BYTES:
        raise ValueError(f"a batch has at most {MAX_BATCH_BYTES} bytes, not {len(data)}")
    if len(data) < _COUNTS.size:
        raise ValueError(f"a batch of {len(data)} bytes is cut off")
    points, names = _COUNTS.unpack_from(data)
    if points > MAX_BATCH_POINTS:
        raise ValueError(f"a batch has at most {MAX_BATCH_POINTS} points, not {points}")
    if names > MAX_BATCH_NAMES:
        raise ValueError(f"a batch has at most {MAX_BATCH_NAMES} names, not {names}")
    view, column_bytes, start = memoryview(data), points * 8, _COUNTS.size
    heads: list[array[int]] = []
    for _ in range(3):
        heads.append(_integers(_take(view, start, column_bytes)))
        start += column_bytes
    values: dict[str, array[float]] = {}
    for _ in range(names):
        (length,) = _LENGTH.unpack(_take(view, start, _LENGTH.size))
        start += _LENGTH.size
        name = check_metric_name(bytes(_take(view, start, length)))
        start += length
        if name in values:
            raise ValueError(f"the metric {name[:80]!r} is twice in the batch")
        values[name] = _numbers(_take(view, start, column_bytes))
        start += column_bytes
    if start != len(data):
        raise ValueError(f"{len(data) - start} bytes follow the batch's end")
    steps, epochs, times_us = heads
    return Batch(steps, epochs, times_us, values)


def count_names(data: bytes) -> int:
    """The names that a batch says it has; 0 if it is cut off before that."""
    names: int = _COUNTS.unpack_from(data)[1] if len(data) >= _COUNTS.size else 0
    return names


def logged(column: array[float]) -> list[bool]:
    """Which points have the metric; a NaN that was logged counts."""
    return [bits != NOT_LOGGED_BITS for bits in memoryview(column).cast("B").cast("Q")]


def check_metric_name(encoded: bytes) -> str:
    """The name of a metric from its UTF-8.

    Raises:
        ValueError: It cannot be one.
    """
    if not 1 <= len(encoded) <= MAX_METRIC_NAME_BYTES:
        raise ValueError(f"a metric's name has 1 to {MAX_METRIC_NAME_BYTES} bytes, not {len(encoded)}")
    try:
        name = encoded.decode()
    except UnicodeDecodeError:
        raise ValueError(f"the metric's name {encoded[:80]!r} is not UTF-8") from None
    if "\0" in name:
        raise ValueError(f"the metric's name {name[:80]!r} has a NUL")
    return name


def _take(view: memoryview, start: int, length: int) -> memoryview:
    if start + length > len(view):
        raise ValueError(f"a batch of {len(view)} bytes is cut off")
    return view[start : start + length]


def _integers(data: memoryview) -> array[int]:
    column = array("q", bytes(data))
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _numbers(data: memoryview) -> array[float]:
    column = array("d", bytes(data))
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _bytes(column: array[int] | array[float]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()

"""Columns of 8-byte numbers as the database keeps them: bytes of one significance together, then zlib.

Bytes of the same significance resemble each other from point to point, so this does without differences, which cost
90 ns a value in Python and would gain 2 % on times. Integers are searched for repetitions (level 1); values are not,
because of the low bytes of a float nothing repeats: with runs and Huffman codes alone they take 40 ns instead of 210
and grow by 3 % (`docs/adr/0009-metrics-in-columns.md`).
"""

from __future__ import annotations

import sys
import zlib
from array import array

from t9k.protocol.metric_batch import NOT_LOGGED

_WIDTH = 8


def pack_integers(column: array[int]) -> bytes:
    """An `array` of type ``q`` in compressed bytes."""
    return _pack(column, zlib.Z_DEFAULT_STRATEGY)


def pack_numbers(column: array[float]) -> bytes:
    """An `array` of type ``d`` in compressed bytes, each NaN with its bits."""
    return _pack(column, zlib.Z_RLE)


def unpack_integers(data: bytes) -> array[int]:
    """What `pack_integers` packed."""
    return array("q", _unpack(data))


def unpack_numbers(data: bytes) -> array[float]:
    """What `pack_numbers` packed."""
    return array("d", _unpack(data))


def not_logged(count: int) -> array[float]:
    """A column of points that lack the metric."""
    return array("d", [NOT_LOGGED]) * count


def _pack(column: array[int] | array[float], strategy: int) -> bytes:
    data = column.tobytes()
    order = range(_WIDTH) if sys.byteorder == "little" else reversed(range(_WIDTH))
    planes = b"".join(data[start::_WIDTH] for start in order)
    packer = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, strategy)
    return packer.compress(planes) + packer.flush()


def _unpack(data: bytes) -> bytes:
    planes = zlib.decompress(data)
    length = len(planes) // _WIDTH
    numbers = bytearray(len(planes))
    order = range(_WIDTH) if sys.byteorder == "little" else reversed(range(_WIDTH))
    for index, start in enumerate(order):
        numbers[start::_WIDTH] = planes[index * length : (index + 1) * length]
    return bytes(numbers)

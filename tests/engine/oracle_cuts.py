"""Where objects are cut, written from `docs/formats.md` alone: slow, and shares nothing with the engine."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

KIB = 1 << 10
CDC, TENSOR = 1, 2
MAX_INDEX, MAX_NAME, MAX_TENSORS, TOP = 32 << 20, 4096, 262_144, (1 << 64) - 1

Spans = list[tuple[int, int]]


class Unusable(Exception):
    """The index of a file does not follow the rules."""


def require(condition: object) -> None:
    if not condition:
        raise Unusable


def chunks(data: bytes) -> tuple[int, list[int]]:
    """The chunker of an object and the lengths of its chunks."""
    spans = usable_index(data)
    ends = content_cuts(data) if spans is None else tensor_cuts(spans, len(data))
    return CDC if spans is None else TENSOR, [end - start for start, end in pairwise([0, *ends])]


def usable_index(data: bytes) -> Spans | None:
    try:
        return index(data)
    except (Unusable, struct.error, UnicodeDecodeError):
        return None


# Content

P = (0x9759, 0xBFC9, 0x987B, 0xC3F3, 0x4FC5, 0x58BD)
A = (0, 13, 26, 37, 50, 62)
H = (
    0xB9F24F7BAE4A6587,
    0xBD34D3AEF603E583,
    0x401478BC5887CCFF,
    0xBA450A33EF6FF86D,
    0x56E84498E8B0E635,
    0x701560AD31BB9977,
    0x8E4858B561B10361,
    0x5FB1940EB8CBF1AF,
)


def is_candidate(words: list[int], data: bytes, p: int) -> bool:
    at = p - 64
    s = sum(factor * words[at + offset] for factor, offset in zip(P, A, strict=True))
    if s >> 8 & 0xFF != 0x80:
        return False
    h = sum(factor * word for factor, word in zip(H, struct.unpack_from("<8Q", data, at), strict=True)) & TOP
    return (h ^ h >> 32) * 0xEE979F2730A45DF3 & TOP < 0x0152F3A90C550C80


def content_cuts(data: bytes) -> list[int]:
    words = [low | high << 8 for low, high in pairwise(data)]
    cuts: list[int] = []
    at = 0
    while at < len(data):
        end = min(at + 256 * KIB, len(data))
        at = next((p for p in range(at + 16 * KIB, end) if is_candidate(words, data, p)), end)
        cuts.append(at)
    return cuts


# Tensors


def tensor_cuts(spans: Spans, size: int) -> list[int]:
    regions: Spans = []
    end = 0
    for offset, length in spans:
        regions += [(end, offset), (offset, offset + length)]
        end = offset + length
    regions.append((end, size))

    units: list[list[int]] = []
    joinable = False
    for number, (start, end) in enumerate(regions):
        if start == end:
            continue
        alone = number in (0, len(regions) - 1)
        short = end - start < 64 * KIB and not alone
        unit = units[-1] if units else [0, 0]
        if joinable and short and unit[1] - unit[0] < 64 * KIB and end - unit[0] <= 64 * KIB:
            unit[1] = end
        else:
            units.append([start, end])
            joinable = short
    cuts = []
    for start, end in units:
        while end - start - 1024 * KIB >= 64 * KIB:
            start += 1024 * KIB
            cuts.append(start)
        cuts.append(end)
    return cuts


def index(data: bytes) -> Spans:
    if data.startswith(b"GGUF"):
        spans = gguf(data)
    elif data.startswith(b"\x93NUMPY"):
        spans = [npy(data, 0, len(data))]
    elif data.startswith(b"PK\x03\x04"):
        spans = zipped(data)
    else:
        require(data[8:9] == b"{")
        spans = safetensors(data)
    spans = disjoint(spans, len(data))
    require(len(spans) <= MAX_TENSORS)
    return spans


def disjoint(spans: Spans, end: int) -> Spans:
    spans = sorted(span for span in spans if span[1] > 0)
    require(spans)
    for (offset, length), (following, _) in zip(spans, [*spans[1:], (end, 0)], strict=True):
        require(offset + length <= following)
    return spans


def product(factors: Iterable[int]) -> int:
    done = 1
    for factor in factors:
        done *= factor
        require(0 <= done <= TOP)
    return done


SAFETENSORS = {
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"], 1),
    **dict.fromkeys(["U16", "I16", "F16", "BF16"], 2),
    **dict.fromkeys(["U32", "I32", "F32"], 4),
    **dict.fromkeys(["U64", "I64", "F64", "C64"], 8),
}


def safetensors(data: bytes) -> Spans:
    (length,) = struct.unpack_from("<Q", data)
    require(length <= MAX_INDEX and 8 + length <= len(data))

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        require(len(found) == len(pairs))
        return found

    try:
        header = json.loads(data[8 : 8 + length], object_pairs_hook=unique)
    except ValueError:
        raise Unusable from None
    require(isinstance(header, dict) and len(header) <= MAX_TENSORS + 1)
    require(all(len(name.encode()) <= MAX_NAME for name in header))
    header.pop("__metadata__", None)
    found = []
    for tensor in header.values():
        fields = dict(zip(("dtype", "shape", "data_offsets"), tensor, strict=True)) if type(tensor) is list else tensor
        require(isinstance(fields, dict) and set(fields) == {"dtype", "shape", "data_offsets"})
        dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
        require(type(dtype) is str and type(shape) is list and type(offsets) is list and len(offsets) == 2)
        require(len(shape) <= 64 and all(type(n) is int and 0 <= n <= TOP for n in [*shape, *offsets]))
        elements = product(shape)
        require(offsets[0] <= offsets[1])
        if dtype in SAFETENSORS:
            require(elements * SAFETENSORS[dtype] == offsets[1] - offsets[0])
        found.append(offsets)
    end = 0
    for start, stop in sorted(found):
        require(start == end)
        end = stop
    require(8 + length + end == len(data))
    return [(8 + length + start, stop - start) for start, stop in found]


class Cursor:
    def __init__(self, data: bytes, at: int = 0) -> None:
        self.data, self.at = data, at

    def take(self, length: int) -> bytes:
        require(self.at + length <= min(len(self.data), MAX_INDEX))
        self.at += length
        return self.data[self.at - length : self.at]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def name(self) -> bytes:
        length = self.u64()
        require(length <= MAX_NAME)
        return self.take(length)


SCALARS = {0: 1, 1: 1, 7: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 10: 8, 11: 8, 12: 8}
BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84)},
    **{11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66)},
    **{17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136)},
    **{24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54)},
    **{35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18)},
}


def gguf(data: bytes) -> Spans:
    cursor = Cursor(data, 4)
    require(cursor.u32() in (2, 3))
    tensors, keys = cursor.u64(), cursor.u64()
    require(tensors <= MAX_TENSORS and keys <= 65_536)
    alignment = 32

    def skip(kind: int, arrays: int) -> None:
        if kind in SCALARS:
            cursor.take(SCALARS[kind])
        elif kind == 8:
            cursor.take(cursor.u64())
        else:
            require(kind == 9 and arrays < 4)
            inner, count = cursor.u32(), cursor.u64()
            if inner in SCALARS:
                cursor.take(count * SCALARS[inner])
                return
            for _ in range(count):
                skip(inner, arrays + 1)

    for _ in range(keys):
        name, kind = cursor.name(), cursor.u32()
        if name == b"general.alignment" and kind == 4:
            alignment = cursor.u32()
        else:
            skip(kind, 0)
    require(alignment.bit_count() == 1 and alignment <= 1 << 20)
    described: list[tuple[int, int | None]] = []
    for _ in range(tensors):
        cursor.name()
        count = cursor.u32()
        require(count <= 8)
        axes = [cursor.u64() for _ in range(count)]
        kind, offset = cursor.u32(), cursor.u64()
        elements = product(axes)
        require(offset % alignment == 0)
        length = None
        if kind in BLOCKS:
            block, block_bytes = BLOCKS[kind]
            require((axes[0] if axes else 1) % block == 0)
            length = elements // block * block_bytes
        described.append((offset, length))
    start = math.ceil(cursor.at / alignment) * alignment
    require(start <= len(data))
    spans = []
    following = len(data) - start
    described.sort(key=lambda tensor: (tensor[0], tensor[1] != 0))
    for offset, length in reversed(described):
        length = following - offset if length is None else length
        require(0 <= length <= following - offset)
        following = offset
        spans.append((start + offset, length))
    return spans


def zipped(data: bytes) -> Spans:
    tail = max(0, len(data) - 65_557)
    end = data.rfind(b"PK\x05\x06", tail, len(data) - 18)
    require(end >= 0)
    disk, first, here, entries, size, start, comment = struct.unpack_from("<4H2IH", data, end + 4)
    require(end + 22 + comment == len(data))
    if end >= 20 and data[end - 20 : end - 16] == b"PK\x06\x07":
        (at,) = struct.unpack_from("<Q", data, end - 12)
        require(data[at : at + 4] == b"PK\x06\x06")
        length, _, disk, first, here, entries, size, start = struct.unpack_from("<QI2I4Q", data, at + 4)
        require(at + 12 + length == end - 20)
        end = at
    require(start + size == end and disk == first == 0 and here == entries <= MAX_TENSORS and size <= MAX_INDEX)

    torch = False
    records: Spans = []
    arrays: Spans = []
    at = start
    for _ in range(entries):
        require(data[at : at + 4] == b"PK\x01\x02" and at + 46 <= end)
        flags, method = struct.unpack_from("<2H", data, at + 8)
        packed, unpacked, name_length, extra_length, comment = struct.unpack_from("<2I3H", data, at + 20)
        (header,) = struct.unpack_from("<I", data, at + 42)
        require(name_length <= MAX_NAME)
        name = data[at + 46 : at + 46 + name_length]
        extra = data[at + 46 + name_length :][:extra_length]
        at += 46 + name_length + extra_length + comment
        require(at <= end)
        unpacked, packed, header = widened(extra, [unpacked, packed, header])
        stored = method == 0 and not flags & 1
        require(packed == unpacked or not stored)
        torch = torch or name.endswith(b"/data.pkl")
        group = arrays if name.endswith(b".npy") else records
        digits = name[len(name.rstrip(b"0123456789")) :]
        is_record = bool(digits) and name.removesuffix(digits).endswith(b"/data/")
        if stored and (group is arrays or is_record):
            require(data[header : header + 4] == b"PK\x03\x04")
            local_name, local_extra = struct.unpack_from("<2H", data, header + 26)
            require(local_name == name_length)
            group.append((header + 30 + local_name + local_extra, packed))
    require(at == end)
    if torch:
        return disjoint(records, start)
    found = []
    for offset, length in disjoint(arrays, start):
        try:
            found.append(npy(data, offset, length))
        except (Unusable, struct.error, UnicodeDecodeError):
            continue
    return found


def widened(extra: bytes, values: list[int]) -> list[int]:
    wide = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        require(4 + length <= len(extra))
        if kind == 1:
            wide = extra[4 : 4 + length]
            break
        extra = extra[4 + length :]
    words = iter(struct.unpack_from(f"<{len(wide) // 8}Q", wide))
    try:
        return [next(words) if value == 0xFFFFFFFF else value for value in values]
    except (StopIteration, RuntimeError):
        raise Unusable from None


def npy(data: bytes, offset: int, length: int) -> tuple[int, int]:
    require(data[offset : offset + 6] == b"\x93NUMPY")
    version = tuple(data[offset + 6 : offset + 8])
    require(version in ((1, 0), (2, 0), (3, 0)))
    layout = "<H" if version == (1, 0) else "<I"
    start = offset + 8 + struct.calcsize(layout)
    (header_length,) = struct.unpack_from(layout, data, offset + 8)
    require(header_length <= 64 * KIB and start + header_length <= offset + length)
    header = data[start : start + header_length].decode()
    text = after(header, "'descr'")
    require(text.startswith("'") and text.count("'") > 1)
    name = text[1:].partition("'")[0]
    require(name[:1] in ("<", ">", "|", "=") and name[1:2])
    size = number(name[2:].partition("[")[0])
    plain = name[1] + str(size)
    if name[1] == "U":
        size *= 4
    else:
        require(name[1] in "fcVSMm" or plain in ("b1", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8"))
    shape, closed, _ = after(header, "'shape'").partition(")")
    require(shape.startswith("(") and closed)
    parts = shape[1:].split(",")
    require(len(parts) <= 65)
    elements = product(number(part.strip()) for part in parts if part.strip())
    data_bytes = product([elements, size])
    data_start = start + header_length
    require(data_start + data_bytes <= offset + length)
    return data_start, data_bytes


def after(header: str, key: str) -> str:
    _, found, rest = header.partition(key)
    require(found and rest.strip().startswith(":"))
    return rest.strip().removeprefix(":").strip()


def number(text: str) -> int:
    require(text.isascii() and text.isdigit() and int(text) <= TOP)
    return int(text)

"""Readers of the formats written from `docs/formats.md` alone, on the `blake3`, `xxhash` and `zstandard` packages."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import blake3
import xxhash
import zstandard


def digest(data: bytes) -> str:
    return blake3.blake3(data).hexdigest()


def checked(data: bytes, magic: bytes, version: int = 1) -> bytes:
    """The bytes after magic and version, without the trailer."""
    body, trailer = data[:-8], data[-8:]
    assert xxhash.xxh3_64_intdigest(body) == int.from_bytes(trailer, "little")
    assert body[:12] == magic + struct.pack("<I", version)
    return body[12:]


@dataclass
class ChunkTable:
    chunker: int
    object_size: int
    chunks: list[tuple[str, int]]


def chunk_table(data: bytes) -> ChunkTable:
    body = checked(data, b"EMCHUNK\0")
    chunker, size, count = struct.unpack_from("<IQQ", body)
    assert len(body) == 20 + 36 * count
    records = struct.iter_unpack("<32sI", body[20:])
    return ChunkTable(chunker, size, [(name.hex(), length) for name, length in records])


@dataclass
class PackRecord:
    offset: int
    codec: int
    digest: str
    chunk: bytes


def pack(data: bytes) -> list[PackRecord]:
    """Every chunk of a pack, decoded."""
    body = checked(data, b"EMPACK\0\0")
    assert len(data) <= 64 << 20
    signed, checksum = body[:-8], body[-8:]
    (count,) = struct.unpack("<I", signed[-4:])
    footer = signed[len(signed) - 4 - 41 * count :]
    assert xxhash.xxh3_64_intdigest(footer) == int.from_bytes(checksum, "little")
    records, at = [], 0
    for fields in struct.iter_unpack("<BII32s", footer[:-4]):
        assert struct.unpack_from("<BII32s", body, at) == fields
        codec, stored_length, length, name = fields
        stored = body[at + 41 : at + 41 + stored_length]
        chunk = unpacked(codec, stored, length)
        assert digest(chunk) == name.hex()
        records.append(PackRecord(12 + at, codec, name.hex(), chunk))
        at += 41 + stored_length
    assert at + len(footer) + 8 == len(body)
    assert 1 <= count == len({record.digest for record in records})
    return records


def pack_digest(data: bytes) -> str:
    (count,) = struct.unpack("<I", data[-20:-16])
    return digest(data[len(data) - 20 - 41 * count : -16])


def unpacked(codec: int, stored: bytes, length: int) -> bytes:
    assert 1 <= length <= 2 << 20
    if codec == 0:
        assert len(stored) == length
        return stored
    assert 1 <= len(stored) < length
    return frame(stored, length) if codec == 1 else planes(stored, length)


def frame(stored: bytes, length: int) -> bytes:
    """One zstd frame that tells its content size."""
    assert zstandard.frame_content_size(stored) == length
    reader = zstandard.ZstdDecompressor().decompressobj()
    raw = reader.decompress(stored)
    assert reader.eof
    assert reader.unused_data == b""
    assert len(raw) == length
    return raw


def planes(stored: bytes, length: int) -> bytes:
    flags, phase = stored[:2]
    width, rotated = 1 << (flags & 3), bool(flags & 4)
    assert flags < 8
    assert width > 1
    assert phase < width
    lengths = struct.unpack_from(f"<{width}I", stored, 2)
    at = 2 + 4 * width + phase
    head, count = stored[at - phase : at], (length - phase) // width
    assert count >= 1
    elements = [0] * count
    for place, stored_length in enumerate(lengths):
        plane = stored[at : at + stored_length]
        at += stored_length
        for index, byte in enumerate(plane if stored_length == count else frame(plane, count)):
            elements[index] |= byte << (8 * place)
    if rotated:
        elements = [element >> 1 | (element & 1) << (8 * width - 1) for element in elements]
    tail = stored[at:]
    assert len(tail) == length - phase - width * count
    return head + b"".join(element.to_bytes(width, "little") for element in elements) + tail


def manifest(data: bytes) -> dict[str, dict[str, object]]:
    body = checked(data, b"EMMANIF\0")
    (count,) = struct.unpack_from("<Q", body)
    at = 8

    def take(layout: str) -> tuple[object, ...]:
        nonlocal at
        values = struct.unpack_from("<" + layout, body, at)
        at += struct.calcsize("<" + layout)
        return values

    def text() -> str:
        (length,) = take("H")
        (value,) = take(f"{length}s")
        assert isinstance(value, bytes)
        return value.decode()

    entries: dict[str, dict[str, object]] = {}
    for _ in range(count):
        (tag,) = take("B")
        path = text()
        entry: dict[str, object] = {"tag": tag}
        if tag in (0, 1):
            entry["size"], name = take("Q32s")
            assert isinstance(name, bytes)
            entry["digest"] = name.hex()
        elif tag == 3:
            (known,) = take("B")
            assert isinstance(known, int)
            entry["uri"] = text()
            if known & 1:
                (entry["size"],) = take("Q")
            if known & 2:
                entry["etag"] = text()
            if known & 4:
                (name,) = take("32s")
                assert isinstance(name, bytes)
                entry["digest"] = name.hex()
        entries[path] = entry
    assert at == len(body)
    assert [path.encode() for path in entries] == sorted(path.encode() for path in entries)
    return entries


def seal_ns(name: str, mtime_s: int, boot: bytes) -> int:
    value = xxhash.xxh3_64_intdigest(bytes.fromhex(name) + struct.pack("<q", mtime_s) + boot)
    return 1 + value % 999_999_999


def boot_id() -> bytes:
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""))


def owner(pid: int) -> str:
    """Who holds a lease: host, boot, process namespace, process and its start."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{os.uname().nodename} {boot} {os.readlink('/proc/self/ns/pid')} {pid} {started}"


def root(directory: Path) -> tuple[str, str]:
    """The name and the text of the record of an artifact's directory."""
    path = mounted = directory.resolve()
    for above in path.parents:
        if above.stat().st_dev != path.parent.stat().st_dev:
            break
        mounted = above
    return digest(str(path).encode()), f"{path}\0{mounted}"


def intent(data: bytes) -> tuple[str, list[str]]:
    """Who adds, and its paths with what stands before them."""
    who, *items = data.decode().split("\0")
    assert len(who.split(" ")) == 5
    assert {item[0] for item in items} <= set("+=/")
    paths = [item[1:] for item in items]
    assert paths == sorted(paths, key=str.encode)
    return who, items


@dataclass
class CacheRow:
    size: int
    mtime_ns: int
    ctime_ns: int
    digest: str
    flags: int
    day: int


def cache_shard(data: bytes) -> dict[bytes, CacheRow]:
    body = checked(data, b"EMSTATS\n", version=2)
    assert body[:4] == struct.pack("<I", 80)
    assert (len(body) - 4) % 80 == 0
    rows = {}
    for key, size, mtime, ctime, name, flags, day in struct.iter_unpack("<16sQqq32sII", body[4:]):
        rows[key] = CacheRow(size, mtime, ctime, name.hex(), flags, day)
    assert list(rows) == sorted(rows)
    assert len(rows) == (len(body) - 4) // 80 <= 8192
    return rows


def shard_of(key: bytes) -> str:
    return f"{xxhash.xxh3_64_intdigest(key) % 256:02x}"


def file_key(stat: os.stat_result) -> bytes:
    return struct.pack("<QQ", stat.st_dev, stat.st_ino)


def sketch_places(size: int) -> list[tuple[int, int]]:
    """Offsets and lengths of what a content hint looks at."""
    samples = min(size >> 20, 64)
    step = size // (samples + 1)
    ends = [(0, 64 << 10), (max(0, size - (64 << 10)), 64 << 10)]
    return ends + [(number * step // 4096 * 4096, 4096) for number in range(1, samples + 1)]


def sketch_key(data: bytes) -> bytes:
    samples = b"".join(data[at : at + length] for at, length in sketch_places(len(data)))
    return xxhash.xxh3_128_intdigest(struct.pack("<Q", len(data)) + samples).to_bytes(16, "little")

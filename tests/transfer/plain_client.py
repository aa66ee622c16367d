"""A client of an AIStore, from `docs/protocol.md` and `docs/formats.md` alone: nothing of this package is used."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Any

import requests
import zstandard
from blake3 import blake3
from xxhash import xxh3_64_intdigest

CHUNK_BYTES = 200_000
PACK_CHUNKS = 1 << 16


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def signed(body: bytes) -> bytes:
    return body + struct.pack("<Q", xxh3_64_intdigest(body))


def bits(bitmap: bytes, count: int) -> list[int]:
    """The indexes whose bit is 1."""
    return [index for index in range(count) if bitmap[index // 8] >> index % 8 & 1]


def cut(data: bytes) -> list[bytes]:
    """Only larger files have a chunk table; where a client cuts them is its own affair."""
    if len(data) <= 256 << 10:
        return [data] if data else []
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]


def chunk_table(chunks: list[bytes]) -> bytes:
    rows = b"".join(digest(chunk) + struct.pack("<I", len(chunk)) for chunk in chunks)
    return signed(b"EMCHUNK\0" + struct.pack("<IIQQ", 1, 1, sum(map(len, chunks)), len(chunks)) + rows)


def manifest(files: dict[str, bytes]) -> bytes:
    entries = b""
    for path, data in sorted(files.items(), key=lambda item: item[0].encode()):
        name = path.encode()
        entries += b"\0" + struct.pack("<H", len(name)) + name + struct.pack("<Q", len(data)) + digest(data)
    return signed(b"EMMANIF\0" + struct.pack("<IQ", 1, len(files)) + entries)


def pack(chunks: list[bytes]) -> tuple[bytes, bytes]:
    """A pack and the digest that names it; every chunk is stored as it is, or by zstd if that is shorter."""
    zstd, heads, stored = zstandard.ZstdCompressor(), [], []
    for chunk in chunks:
        packed = zstd.compress(chunk)
        codec, kept = (1, packed) if len(packed) < len(chunk) else (0, chunk)
        heads.append(struct.pack("<BII", codec, len(kept), len(chunk)) + digest(chunk))
        stored.append(kept)
    footer = b"".join(heads) + struct.pack("<I", len(chunks))
    records = b"".join(part for record in zip(heads, stored, strict=True) for part in record)
    return signed(b"EMPACK\0\0" + struct.pack("<I", 1) + records + signed(footer)), digest(footer)


def unpack(record: bytes) -> bytes:
    """The chunk of a record."""
    codec, stored_bytes, length = struct.unpack_from("<BII", record)
    stored = record[41 : 41 + stored_bytes]
    chunk = (lambda data, _: data, frame, planes)[codec](stored, length)
    assert len(chunk) == length
    assert digest(chunk) == record[9:41]
    return chunk


def frame(data: bytes, length: int) -> bytes:
    return zstandard.ZstdDecompressor().decompress(data, max_output_size=length)


def planes(stored: bytes, length: int) -> bytes:
    width, is_rotated, phase = 1 << (stored[0] & 3), stored[0] >> 2 & 1, stored[1]
    lengths = struct.unpack_from(f"<{width}I", stored, 2)
    at = 2 + 4 * width
    head, at = stored[at : at + phase], at + phase
    count, columns = (length - phase) // width, []
    for size in lengths:
        part, at = stored[at : at + size], at + size
        columns.append(part if size == count else frame(part, count))
    elements = bytearray(count * width)
    for index, column in enumerate(columns):
        elements[index::width] = column
    if is_rotated:
        kind, size = {2: "H", 4: "I", 8: "Q"}[width], 8 * width
        turned = (value >> 1 | (value & 1) << (size - 1) for value in struct.unpack(f"<{count}{kind}", elements))
        elements = bytearray(struct.pack(f"<{count}{kind}", *turned))
    return head + bytes(elements) + stored[at:]


@dataclass
class PlainClient:
    """Sends one request after the other, and counts them."""

    url: str
    key: str | None
    requests: int = 0

    def call(self, method: str, path: str, expected: int | tuple[int, ...] = 200, **arguments: Any) -> Any:
        """The answer: JSON as what it says, other bodies as bytes."""
        headers = {"EM-Protocol": "1", **arguments.pop("headers", {})}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        self.requests += 1
        url = f"{self.url}/api/v1{path}"
        answer = requests.request(method, url, headers=headers, allow_redirects=False, timeout=300, **arguments)
        assert answer.status_code in ([expected] if isinstance(expected, int) else expected), answer.text
        is_json = answer.content and "json" in answer.headers.get("Content-Type", "")
        return answer.json() if is_json else answer.content

    def upload(self, files: dict[str, bytes], placement: dict[str, Any], key: str) -> dict[str, Any]:
        """Plan, missing, packs, commit."""
        objects = {digest(data): data for data in files.values()}
        asked = b"".join(name + struct.pack("<Q", len(data)) for name, data in objects.items())
        unknown = [
            list(objects)[index] for index in bits(self.call("POST", "/artifacts/plan", data=asked), len(objects))
        ]
        lease: dict[str, str] = {}
        chunks = list(dict.fromkeys(chunk for name in unknown for chunk in cut(objects[name])))
        if chunks:
            answer = self.call("POST", "/artifacts/missing", data=b"".join(map(digest, chunks)))
            lease = {"EM-Lease": answer[:20].decode()}
            missing = [chunks[index] for index in bits(answer[20:], len(chunks))]
            for start in range(0, len(missing), PACK_CHUNKS):
                data, name = pack(missing[start : start + PACK_CHUNKS])
                self.call("PUT", f"/packs/{name.hex()}", (200, 201), data=data, headers=lease)
        listed = manifest(files)
        wish = {"manifest_digest": digest(listed).hex(), "placement": placement, "metadata": {"labels": ["plain"]}}
        head, whole = json.dumps(wish).encode(), listed if unknown else b""
        body = struct.pack("<I", len(head)) + head + struct.pack("<Q", len(whole)) + whole
        for name in unknown:
            if len(objects[name]) > 256 << 10:
                table = chunk_table(cut(objects[name]))
                body += name + struct.pack("<Q", len(table)) + table
        headers = {**lease, "Idempotency-Key": key}
        document: dict[str, Any] = self.call("POST", "/artifacts/commit", (200, 201), data=body, headers=headers)
        return document

    def download(self, path: str) -> dict[str, bytes]:
        """All files of an artifact by their paths, checked against their digests."""
        version = self.call("GET", "/artifacts", params={"path": path})
        at, of = f"/artifacts/{version['node']['id']}", {"version": version["version"]}
        listed = self.call("GET", f"{at}/manifest", params=of)
        assert digest(listed).hex() == version["manifest_digest"]
        entries = dict(self.entries(listed))
        names = list(dict.fromkeys(entries.values()))
        answer, objects = self.call("POST", f"{at}/objects", params=of, data=b"".join(names)), {}
        while answer:
            name, size, length = struct.unpack_from("<32sQQ", answer)
            table, answer = answer[48 : 48 + length], answer[48 + length :]
            rows = [table[start : start + 32] for start in range(32, len(table) - 8, 36)]
            objects[name] = rows or ([name] if size else [])
        wanted = list(dict.fromkeys(chunk for chunks in objects.values() for chunk in chunks))
        places, found = self.call("POST", f"{at}/locate", params=of, data=b"".join(wanted)), {}
        for chunk, (held_by, offset, length) in zip(wanted, struct.iter_unpack("<32sQI", places), strict=True):
            headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
            where = {"artifact": version["node"]["id"], **of}
            found[chunk] = unpack(self.call("GET", f"/packs/{held_by.hex()}", 206, params=where, headers=headers))
            assert digest(found[chunk]) == chunk
        whole = {name: b"".join(found[chunk] for chunk in chunks) for name, chunks in objects.items()}
        assert all(digest(data) == name for name, data in whole.items())
        return {path: whole[name] for path, name in entries.items()}

    @staticmethod
    def entries(listed: bytes) -> list[tuple[str, bytes]]:
        """Path and digest of each file of a manifest."""
        at, found = 20, []
        for _ in range(struct.unpack_from("<Q", listed, 12)[0]):
            tag, length = struct.unpack_from("<BH", listed, at)
            path, at = listed[at + 3 : at + 3 + length].decode(), at + 3 + length
            if tag <= 1:
                found.append((path, listed[at + 8 : at + 40]))
                at += 40
        return found

    def send_points(self, run_id: str, steps: list[int], metrics: dict[str, list[float]]) -> None:
        """One batch, the first of a session."""
        count = len(steps)
        body = struct.pack("<II", count, len(metrics)) + struct.pack(f"<{count}q", *steps)
        body += struct.pack(f"<{count}q", *[-(1 << 63)] * count) + struct.pack(f"<{count}q", *[10**15] * count)
        for name, values in metrics.items():
            body += struct.pack("<H", len(name.encode())) + name.encode() + struct.pack(f"<{count}d", *values)
        headers = {"Content-Type": "application/octet-stream"}
        where = f"/runs/{run_id}/metrics/train/0?session=plain"
        self.call("PUT", where, 201, data=body, headers=headers)
        self.call("PUT", where, 200, data=body, headers=headers)  # its answer was lost: nothing is stored twice

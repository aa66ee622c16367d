"""Packs, chunk tables and manifests written from `docs/formats.md`, true or false, and a client that sends them."""

from __future__ import annotations

import json
import random
import secrets
import struct
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3
from harness import Account
from starlette.testclient import TestClient
from xxhash import xxh3_64_intdigest

API = "/api/v1"


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


def signed(body: bytes) -> bytes:
    return body + struct.pack("<Q", xxh3_64_intdigest(body))


def record(chunk: bytes, *, name: bytes | None = None, raw_bytes: int | None = None, codec: int = 0) -> bytes:
    raw = len(chunk) if raw_bytes is None else raw_bytes
    return struct.pack("<BII", codec, len(chunk), raw) + (digest(chunk) if name is None else name) + chunk


def pack_of(chunks: list[bytes]) -> bytes:
    """A pack of chunks that are stored as they are."""
    return pack_of_records([record(chunk) for chunk in chunks])


def pack_of_records(records: list[bytes], footer: list[bytes] | None = None, count: int | None = None) -> bytes:
    heads = [entry[:41] for entry in records] if footer is None else footer
    signed_part = b"".join(heads) + struct.pack("<I", len(heads) if count is None else count)
    body = b"EMPACK\0\0" + struct.pack("<I", 1) + b"".join(records) + signed(signed_part)
    return signed(body)


def pack_name(pack: bytes) -> bytes:
    """The digest of a pack's footer, or of something if it is no pack."""
    count = int.from_bytes(pack[-20:-16], "little")
    return digest(pack[max(0, len(pack) - 20 - 41 * count) : -16])


def table_of(chunks: list[bytes]) -> bytes:
    """The chunk table of the object that these chunks are."""
    rows = b"".join(digest(chunk) + struct.pack("<I", len(chunk)) for chunk in chunks)
    head = b"EMCHUNK\0" + struct.pack("<IIQQ", 1, 1, sum(map(len, chunks)), len(chunks))
    return signed(head + rows)


def manifest_of(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A manifest of files: size and digest by path."""
    body = b"EMMANIF\0" + struct.pack("<IQ", 1, len(files))
    for path, (size, name) in sorted(files.items(), key=lambda item: item[0].encode()):
        body += b"\0" + struct.pack("<H", len(path.encode())) + path.encode() + struct.pack("<Q", size) + name
    return signed(body)


def noise(seed: object, size: int) -> bytes:
    """Bytes that no codec makes smaller, the same for the same seed."""
    return random.Random(repr(seed)).randbytes(size)


@dataclass
class Content:
    """An artifact's content: files by path, each a list of chunks."""

    files: dict[str, list[bytes]]
    tables: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def objects(self) -> dict[bytes, list[bytes]]:
        return {digest(b"".join(chunks)): chunks for chunks in self.files.values()}

    @property
    def chunks(self) -> list[bytes]:
        return list(dict.fromkeys(chunk for chunks in self.files.values() for chunk in chunks))

    @property
    def manifest(self) -> bytes:
        return manifest_of(
            {path: (sum(map(len, chunks)), digest(b"".join(chunks))) for path, chunks in self.files.items()}
        )

    def table(self, name: bytes) -> bytes | None:
        chunks = self.objects[name]
        return self.tables.get(name) or (table_of(chunks) if len(chunks) > 1 else None)


@dataclass
class Uploader:
    """A client that uploads step by step. Counts what it sent."""

    client: TestClient
    account: Account
    lease: str | None = None
    sent_packs: int = 0
    key: int = 0

    def close(self) -> None:
        """Closes its connections."""
        self.client.close()

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        headers = {**self.account.headers, **arguments.pop("headers", {})}
        return self.client.request(method, f"{API}{path}", headers=headers, **arguments)

    @property
    def _lease(self) -> dict[str, str]:
        return {"EM-Lease": self.lease} if self.lease else {}

    def unknown(self, sizes: dict[bytes, int]) -> list[bytes]:
        body = b"".join(name + struct.pack("<Q", size) for name, size in sizes.items())
        response = self.call("POST", "/artifacts/plan", content=body)
        assert response.status_code == 200, response.text
        assert len(response.content) == (len(sizes) + 7) // 8
        return [name for at, name in enumerate(sizes) if response.content[at >> 3] >> (at & 7) & 1]

    def missing(self, chunks: list[bytes]) -> list[bytes]:
        """Which of these chunks are missing; takes or renews the lease."""
        gone = set(self.missing_names(list(map(digest, chunks))))
        return [chunk for chunk in chunks if digest(chunk) in gone]

    def missing_names(self, names: list[bytes]) -> list[bytes]:
        """Which chunks of these digests are missing; takes or renews the lease."""
        response = self.call("POST", "/artifacts/missing", content=b"".join(names), headers=self._lease)
        assert response.status_code == 200, response.text
        self.lease = response.content[:20].decode()
        bits = response.content[20:]
        assert len(bits) == (len(names) + 7) // 8
        return [name for at, name in enumerate(names) if bits[at >> 3] >> (at & 7) & 1]

    def put(self, pack: bytes, name: bytes | None = None) -> Any:
        name = pack_name(pack) if name is None else name
        response = self.call("PUT", f"/packs/{name.hex()}", content=pack, headers=self._lease)
        if response.status_code < 300:
            self.lease = response.json()["lease"]
        return response

    def send(self, chunks: list[bytes]) -> None:
        """Uploads those of these chunks that are missing, in one pack."""
        gone = self.missing(chunks)
        if gone:
            response = self.put(pack_of(gone))
            assert response.status_code in (200, 201), response.text
            self.sent_packs += 1

    def commit(self, content: Content, *, key: str | None = None, with_manifest: bool = True, **wish: Any) -> Any:
        manifest = content.manifest
        self.key += 1
        if "artifact_id" not in wish:
            place = {"folder": f"/{self.account.name}/default", "name": "a", "alternative_name": f"a{self.key}"}
            wish["placement"] = {**place, "conflict_strategy": "new", **wish.get("placement", {})}
        wish = {"manifest_digest": digest(manifest).hex(), **wish}
        text = json.dumps(wish).encode()
        body = struct.pack("<I", len(text)) + text
        if with_manifest:
            body += struct.pack("<Q", len(manifest)) + manifest
            for name in content.objects:
                table = content.table(name)
                if table is not None:
                    body += name + struct.pack("<Q", len(table)) + table
        else:
            body += struct.pack("<Q", 0)
        headers = {"Idempotency-Key": key or secrets.token_hex(8), **self._lease}
        return self.call("POST", "/artifacts/commit", content=body, headers=headers)

    def upload(self, content: Content, **wish: Any) -> dict[str, Any]:
        """All steps; the answer of the commit."""
        unknown = self.unknown({name: sum(map(len, chunks)) for name, chunks in content.objects.items()})
        chunks = [chunk for name in unknown for chunk in content.objects[name]]
        self.send(list(dict.fromkeys(chunk for chunk in chunks if chunk)))
        response = self.commit(content, **wish)
        assert response.status_code in (200, 201), response.text
        answer: dict[str, Any] = response.json()
        return answer

    def download(self, node_id: str, version: int | None = None) -> dict[bytes, bytes]:
        """The bytes of all objects of a version, each checked."""
        at = {} if version is None else {"version": str(version)}
        manifest = self.call("GET", f"/artifacts/{node_id}/manifest", params=at)
        assert manifest.status_code == 200, manifest.text
        names = objects_of(manifest.content)
        described = self.call("POST", f"/artifacts/{node_id}/objects", params=at, content=b"".join(names))
        assert described.status_code == 200, described.text
        rest, objects, found = described.content, {}, {}
        for name in names:
            got, size, length = struct.unpack("<32sQQ", rest[:48])
            assert got == name
            table, rest = rest[48 : 48 + length], rest[48 + length :]
            rows = [(table[i : i + 32], 0) for i in range(32, len(table) - 8, 36)] if table else []
            objects[name] = [row for row, _ in rows] or ([name] if size else [])
        wanted = list(dict.fromkeys(chunk for chunks in objects.values() for chunk in chunks))
        located = self.call("POST", f"/artifacts/{node_id}/locate", params=at, content=b"".join(wanted))
        assert located.status_code == 200, located.text
        for chunk, (pack, offset, length) in zip(wanted, struct.iter_unpack("<32sQI", located.content), strict=True):
            headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
            got = self.call("GET", f"/packs/{pack.hex()}", params={"artifact": node_id, **at}, headers=headers)
            assert got.status_code == 206, got.text
            assert len(got.content) == length
            found[chunk] = got.content[41:]
            assert digest(found[chunk]) == chunk
        whole = {name: b"".join(found[chunk] for chunk in chunks) for name, chunks in objects.items()}
        assert all(digest(data) == name for name, data in whole.items())
        return whole


def objects_of(manifest: bytes) -> list[bytes]:
    """Distinct digests that a manifest of files names."""
    found, at = {}, 20
    for _ in range(struct.unpack_from("<Q", manifest, 12)[0]):
        (length,) = struct.unpack_from("<H", manifest, at + 1)
        at += 3 + length + 8
        found[manifest[at : at + 32]] = None
        at += 32
    return list(found)

"""The requests of `docs/protocol.md` about artifacts, one function for each.

Digests are 32 bytes each; several lie one behind the other in one `bytes`.
"""

from __future__ import annotations

import re
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from t9k.em.client.session import Answer, Body, Session
from t9k.em.errors import IntegrityError, TransferError
from t9k.protocol import (
    CLAIM_HEADER,
    DIGEST_BYTES,
    IDEMPOTENCY_HEADER,
    LEASE_BYTES,
    LEASE_HEADER,
    MAX_JSON_BYTES,
    MAX_LOCATE_CHUNKS,
    MAX_MANIFEST_BYTES,
    MAX_MISSING_CHUNKS,
    MAX_PACK_BYTES,
    MAX_PLAN_OBJECTS,
    PACK_TYPE,
)

_LEAST_MEAN_CHUNK_BYTES = 8 << 10
"""No chunker makes more chunks of an object; each takes 36 bytes of its table."""

COMMIT_TIMEOUT_S = 600.0
"""A commit of many objects takes the server a while."""

_LEASE = re.compile(f"[0-9a-z]{{{LEASE_BYTES}}}")
_BLOCK_BYTES = 1 << 20
_PLACE = struct.Struct("<32sQI")
_OBJECT = struct.Struct("<32sQQ")


@dataclass(frozen=True)
class Version:
    """A version of an artifact on the server.

    Attributes:
        node_id: Of its node.
        path: Of the node: `/<user>/…`.
        number: Of the version within the node.
        manifest_digest: Its identity, 64 hex digits.
        metadata: Name, labels, description and the like, as the uploader gave them.
        state: `checking`, `complete`, or `bad` if the server found objects that are not their digests'.
    """

    node_id: str
    path: str
    number: int
    manifest_digest: str
    metadata: Mapping[str, Any]
    state: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where a chunk's record lies: in which pack, from where on, in how many bytes."""

    pack: bytes
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + self.length


@dataclass(frozen=True)
class Missing:
    """What a server said of chunks.

    Attributes:
        lease: Keeps those that are there.
        absent: Indexes of those that are not.
        busy: Those of these that another upload is sending now.
    """

    lease: str
    absent: list[int]
    busy: list[int]


def plan(session: Session, objects: Sequence[tuple[bytes, int]]) -> list[int]:
    """The indexes of the objects that the server does not know."""
    unknown: list[int] = []
    for start in range(0, len(objects), MAX_PLAN_OBJECTS):
        part = objects[start : start + MAX_PLAN_OBJECTS]
        body = b"".join(digest + size.to_bytes(8, "little") for digest, size in part)
        what = "cannot ask which objects the server has"
        answer = _post(session, "/artifacts/plan", what, body, max_bytes=len(part) // 8 + 1)
        unknown += (start + index for index in _set_bits(answer.body, len(part)))
    return unknown


def missing(session: Session, chunks: Sequence[bytes], lease: str | None, *, claim: bool) -> Missing:
    """What the server lacks; with `claim` the caller is about to send what of it no other upload is sending."""
    absent: list[int] = []
    busy: list[int] = []
    for start in range(0, len(chunks), MAX_MISSING_CHUNKS):
        part = chunks[start : start + MAX_MISSING_CHUNKS]
        headers = ({LEASE_HEADER: lease} if lease else {}) | ({CLAIM_HEADER: "1"} if claim else {})
        what = "cannot ask which chunks the server has"
        bitmap_bytes = (len(part) + 7) // 8
        answer = _post(
            session,
            "/artifacts/missing",
            what,
            b"".join(part),
            headers=headers,
            max_bytes=LEASE_BYTES + 2 * bitmap_bytes,
        )
        head, bitmaps = answer.body[:LEASE_BYTES].decode("ascii", "replace"), answer.body[LEASE_BYTES:]
        if not _LEASE.fullmatch(head):
            raise _garbage(what)
        lease = head
        absent += (start + index for index in _set_bits(bitmaps[:bitmap_bytes], len(part)))
        if others := bitmaps[bitmap_bytes:]:
            busy += (start + index for index in _set_bits(others, len(part)))
    assert lease is not None
    return Missing(lease, absent, busy)


def put_pack(
    session: Session, digest: bytes, pack: memoryview, lease: str | None, passed: Callable[[int], None]
) -> str:
    """Sends a pack; when this returns it is stored for good. Answers the lease that keeps it: a new one without one.

    `passed` is told how much of it has gone.

    Raises:
        ConflictError: The lease has ended.
        IntegrityError: The server says that it came as something else.
    """
    what = f"cannot send a pack of {len(pack)} bytes"
    headers = {"Content-Type": PACK_TYPE} | ({LEASE_HEADER: lease} if lease else {})
    body = Body(pack, passed)
    document = session.request("PUT", f"/packs/{digest.hex()}", what, body=body, headers=headers).json()
    held = document.get("lease") if isinstance(document, dict) else None
    if not isinstance(held, str) or not _LEASE.fullmatch(held):
        raise _garbage(what)
    return held


def commit(session: Session, body: IO[bytes], lease: str | None, key: str, what: str) -> Answer:
    """Makes a version. 409 is for the caller, who looks into the problem for what is missing."""
    headers = {IDEMPOTENCY_HEADER: key}
    if lease:
        headers[LEASE_HEADER] = lease
    return session.request(
        "POST",
        "/artifacts/commit",
        what,
        body=body,
        headers=headers,
        repeat=True,
        accept={409},
        read_timeout_s=COMMIT_TIMEOUT_S,
    )


def resolve(session: Session, path: str) -> Version:
    """The version that a path of the server names: `/<user>/…`, with `:alias` or `@digest` behind it perhaps."""
    what = f"cannot find {path!r} at {session.url}"
    return version_of(session.request("GET", "/artifacts", what, params={"path": path}).json(), what)


def holders(session: Session, digest: str, limit: int) -> tuple[list[tuple[str, int]], bool]:
    """Ids of the artifacts that have an object, each with its newest version that has it; whether there may be more."""
    what = f"cannot look for {digest} at {session.url}"
    found = session.request("GET", f"/objects/{digest}/artifacts", what, params={"limit": limit}).json()
    try:
        named = [(_text(one["node"]["id"]), int(one["version"])) for one in found["artifacts"]]
        is_truncated = bool(found["truncated"])
    except (KeyError, TypeError, ValueError):
        raise _garbage(what) from None
    return named, is_truncated


def version(session: Session, node: str, number: int) -> Version:
    """A version of an artifact whose id is known."""
    what = f"cannot find version {number} of an artifact at {session.url}"
    return version_of(session.request("GET", f"/artifacts/{node}", what, params={"version": number}).json(), what)


def version_of(document: Any, what: str) -> Version:
    """The version in an answer."""
    try:
        node = document["node"]
        found = Version(
            _text(node["id"]),
            _text(node["path"]),
            int(document["version"]),
            _text(document["manifest_digest"]),
            document["metadata"],
            _text(document["state"]),
        )
        if len(bytes.fromhex(found.manifest_digest)) != DIGEST_BYTES or not isinstance(found.metadata, dict):
            raise ValueError("not a version")
    except (KeyError, TypeError, ValueError):
        raise _garbage(what) from None
    return found


def manifest(session: Session, version: Version) -> bytes:
    """The manifest of a version, which has the right digest."""
    from t9k.em import _engine

    what = f"cannot read the manifest of {version.path}"
    for _ in range(2):
        answer = session.request(
            "GET",
            f"/artifacts/{version.node_id}/manifest",
            what,
            params={"version": version.number},
            max_bytes=MAX_MANIFEST_BYTES,
        )
        if _engine.digest(answer.body).hex() == version.manifest_digest:
            return bytes(answer.body)
    raise IntegrityError(f"{what}: what the server sends, twice, does not have the digest {version.manifest_digest}")


def chunk_tables(
    session: Session, version: Version, objects: Sequence[tuple[bytes, int]]
) -> Iterator[tuple[bytes, int, Iterator[bytes]]]:
    """Digest, size and chunk table of objects, the table in blocks; none for one of a single chunk.

    Nothing of it can be trusted yet. The answer waits in a temporary file, since tables grow with their objects. The
    blocks of one are to be taken before the next object.
    """
    what = f"cannot read the chunk tables of {version.path}"
    max_bytes = sum(200 + size // _LEAST_MEAN_CHUNK_BYTES * 36 for _, size in objects)
    with tempfile.TemporaryFile() as file:
        _of_version(session, version, "objects", what, [digest for digest, _ in objects], max_bytes, into=file)
        end_of_file, start = file.tell(), 0
        for digest, size in objects:
            file.seek(start)
            head = file.read(_OBJECT.size)
            if len(head) < _OBJECT.size:
                raise _garbage(what)
            found, found_size, length = _OBJECT.unpack(head)
            end = start + _OBJECT.size + length
            if found != digest or end > end_of_file:
                raise _garbage(what)
            if found_size != size:
                message = f"object {digest.hex()} has {size} bytes in the manifest, here {found_size}"
                raise IntegrityError(f"{what}: {message}")
            yield digest, size, _blocks_of(file, length)
            start = end
        if start != end_of_file:
            raise _garbage(what)


def _blocks_of(file: IO[bytes], length: int) -> Iterator[bytes]:
    while length and (block := file.read(min(length, _BLOCK_BYTES))):
        length -= len(block)
        yield block


def locate(session: Session, version: Version, chunks: Sequence[bytes]) -> list[Place]:
    """Where the records of chunks lie, in the order of the chunks. Nothing of it can be trusted yet."""
    what = f"cannot ask where the chunks of {version.path} are"
    places: list[Place] = []
    for start in range(0, len(chunks), MAX_LOCATE_CHUNKS):
        part = chunks[start : start + MAX_LOCATE_CHUNKS]
        body = _of_version(session, version, "locate", what, part, _PLACE.size * len(part))
        if len(body) != _PLACE.size * len(part):
            raise _garbage(what)
        places += (Place(*fields) for fields in _PLACE.iter_unpack(body))
    if any(place.end > MAX_PACK_BYTES or not place.length for place in places):
        raise _garbage(what)
    return places


def pack_range(
    session: Session,
    version: Version,
    pack: bytes,
    start: int,
    end: int,
    on_read: Callable[[int], None] | None = None,
) -> bytes | bytearray:
    """The bytes of a pack from `start` to before `end`; `on_read` is told how many have come."""
    what = f"cannot read from a pack of {version.path}"
    answer = session.request(
        "GET",
        f"/packs/{pack.hex()}",
        what,
        params={"artifact": version.node_id, "version": version.number},
        headers={"Range": f"bytes={start}-{end - 1}"},
        max_bytes=MAX_PACK_BYTES,
        on_read=on_read,
    )
    if answer.status == 200 and len(answer.body) > end - start:  # a proxy that knows no ranges
        return answer.body[start:end]
    return answer.body


def _of_version(
    session: Session,
    version: Version,
    verb: str,
    what: str,
    digests: Sequence[bytes],
    max_bytes: int,
    into: IO[bytes] | None = None,
) -> bytes | bytearray:
    path = f"/artifacts/{version.node_id}/{verb}?version={version.number}"
    return _post(session, path, what, b"".join(digests), max_bytes=max_bytes, into=into).body


def _post(
    session: Session,
    path: str,
    what: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    max_bytes: int = MAX_JSON_BYTES,
    into: IO[bytes] | None = None,
) -> Answer:
    """A POST that only asks, and may be sent twice."""
    return session.request("POST", path, what, body=body, headers=headers, repeat=True, max_bytes=max_bytes, into=into)


def _set_bits(bitmap: bytes | bytearray, count: int) -> Iterator[int]:
    if len(bitmap) != (count + 7) // 8:
        raise _garbage("cannot read a bitmap")
    for number, byte in enumerate(bitmap):
        for bit in range(8) if byte else ():
            if byte >> bit & 1 and number * 8 + bit < count:
                yield number * 8 + bit


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _garbage(what: str) -> TransferError:
    return TransferError(f"{what}: the server's answer has another form", hint="are client and server of one version?")

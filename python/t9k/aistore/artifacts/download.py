"""What a download asks: the manifest, its objects' chunk tables, where their chunks are.

All of it is asked through a version of an artifact, which gives access to what its manifest names and to nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import partial

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.artifacts.versions import find_version
from t9k.aistore.blobs.store import BlobStore
from t9k.aistore.db import Database, bulk, objects, packs
from t9k.aistore.db.nodes import Connection
from t9k.aistore.errors import invalid, not_found
from t9k.protocol import DIGEST_BYTES, MAX_LOCATE_CHUNKS, MAX_PLAN_OBJECTS

BLOCK_BYTES = 1 << 20
_OBJECT = struct.Struct("<32sQQ")
_PLACE = struct.Struct("<32sQI")


def read_manifest(blobs: BlobStore, key: str, size_bytes: int) -> Iterator[bytes]:
    """A manifest in blocks."""
    for offset in range(0, size_bytes, BLOCK_BYTES):
        yield blobs.get(key, offset, min(BLOCK_BYTES, size_bytes - offset))


def describe_objects(
    database: Database, caller: Caller, node_id: str, number: int | None, body: bytes | memoryview
) -> Iterator[bytes]:
    """Digest, size and chunk table of each of these objects, in order; checked before the first byte is given.

    Holds one table at a time.

    Raises:
        Refusal: The caller may not see the version, or it has not all of them (`not_found`); the body is no list.
    """
    digests = _digests(body, MAX_PLAN_OBJECTS, "objects")

    def look(connection: Connection) -> dict[int, tuple[int, int, int]]:
        version = find_version(connection, caller, node_id, number)
        found = objects.of_manifest(connection, version.domain_id, version.manifest_id, digests)
        return {row.position: (row.id, row.size_bytes, row.table_bytes) for row in found}

    found = database.read(look)
    _all_found(digests, found, "object")

    def answer() -> Iterator[bytes]:
        for position, digest in enumerate(digests):
            number, size_bytes, table_bytes = found[position]
            table = b""
            if table_bytes:
                table = database.read(partial(objects.table_of, object_id=number))
            if len(table) != table_bytes:
                raise OSError(f"object {digest.hex()} was deleted while it was described")
            yield _OBJECT.pack(digest, size_bytes, table_bytes) + table

    return answer()


def locate(database: Database, caller: Caller, node_id: str, number: int | None, body: bytes | memoryview) -> bytes:
    """Pack, offset and length of the record of each of these chunks, in order.

    Raises:
        Refusal: The caller may not see the version, or it has not all of them (`not_found`); the body is no list.
    """
    digests = _digests(body, MAX_LOCATE_CHUNKS, "chunks")

    def look(connection: Connection) -> dict[int, bytes]:
        version = find_version(connection, caller, node_id, number)
        found = packs.locate(connection, version.domain_id, version.manifest_id, digests)
        return {row.position: _PLACE.pack(row.pack, row.offset, row.length) for row in found}

    found = database.read(look)
    _all_found(digests, found, "chunk")
    return b"".join(found[position] for position in range(len(digests)))


def _digests(body: bytes | memoryview, most: int, what: str) -> list[bytes]:
    if len(body) % DIGEST_BYTES or len(body) > most * DIGEST_BYTES:
        raise invalid(f"the body is at most {most} digests of {what}, 32 bytes each")
    return bulk.split(body)


def _all_found(digests: list[bytes], found: Mapping[int, object], what: str) -> None:
    if len(found) < len(digests):
        first = next(position for position in range(len(digests)) if position not in found)
        raise not_found(f"the version has no {what} {digests[first].hex()}")

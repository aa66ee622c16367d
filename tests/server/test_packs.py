"""Packs: those that lie, and ranges of those that do not."""

from __future__ import annotations

import struct

import pytest
import sqlalchemy as sa
from t9k.aistore.artifacts.leases import SLACK
from t9k.aistore.clock import now_us
from t9k.aistore.db.tables.artifacts import leases
from t9k.aistore.services import Services
from test_database import statements
from uploads import Content, Uploader, digest, noise, pack_name, pack_of, pack_of_records, record, signed

CHUNKS = [noise(number, 300) for number in range(3)]
RECORDS = [record(chunk) for chunk in CHUNKS]
HEADS = [entry[:41] for entry in RECORDS]
PACK = pack_of(CHUNKS)


def _head(*, codec: int = 0, stored: int = 300, raw: int = 300, name: bytes = digest(CHUNKS[0])) -> bytes:
    return struct.pack("<BII", codec, stored, raw) + name


def ends_at_us(services: Services) -> int:
    """When the only lease ends."""
    return int(
        services.database.read(lambda connection: connection.execute(sa.select(leases.c.expires_us)).scalar_one())
    )


def test_pack_takes_five_statements(uploader: Uploader, services: Services) -> None:
    """One for the key; then the lease, the pack, its chunks, and the pack under the lease."""
    uploader.missing(CHUNKS)
    with statements(services.database) as sent:
        assert uploader.put(PACK).status_code == 201
    queries = [statement for statement in sent if not statement.startswith(("BEGIN", "LOCK"))]
    assert len(queries) == 5, queries


def test_lease_is_renewed_when_less_than_its_time_is_left(uploader: Uploader, services: Services) -> None:
    lease_us = services.settings.lease_s * 1_000_000
    uploader.missing(CHUNKS)
    first_us = ends_at_us(services)
    assert first_us >= now_us() + lease_us
    uploader.put(PACK)
    assert ends_at_us(services) == first_us  # nothing was written
    almost_us = now_us() + lease_us - 1
    services.database.write(lambda connection: connection.execute(sa.update(leases).values(expires_us=almost_us)))
    uploader.put(pack_of(CHUNKS[:1]))
    assert ends_at_us(services) >= almost_us + lease_us // SLACK


def test_pack_that_is_there_leaves_no_second_blob(uploader: Uploader, services: Services) -> None:
    assert uploader.put(PACK).status_code == 201
    there = list(services.blobs.list())
    assert uploader.put(PACK).status_code == 200
    assert list(services.blobs.list()) == there
    assert services.blobs.sweep(now_us()) == 0  # nothing half written either


LIES = {
    "empty": b"",
    "garbage": noise("garbage", 5000),
    "no chunk": pack_of([]),
    "wrong digest of a chunk": pack_of_records([record(CHUNKS[0], name=digest(b"other"))]),
    "wrong digest of the last of many": pack_of_records([*RECORDS[:2], record(CHUNKS[2], name=digest(b"other"))]),
    "stored longer than raw": pack_of_records([record(CHUNKS[0], raw_bytes=299)]),
    "stored shorter than raw": pack_of_records([record(CHUNKS[0], raw_bytes=301)]),
    "raw of no length": pack_of_records([record(b"")]),
    "longer than a chunk may be": pack_of_records([record(bytes((2 << 20) + 1))]),
    "unknown codec": pack_of_records([record(CHUNKS[0], codec=3)]),
    "no zstd frame": pack_of_records([record(CHUNKS[0], codec=1, raw_bytes=2 << 20)]),
    "no planes": pack_of_records([record(CHUNKS[0], codec=2, raw_bytes=2 << 20)]),
    "chunk twice": pack_of([CHUNKS[0], CHUNKS[0]]),
    "footer in another order": pack_of_records(RECORDS, [HEADS[1], HEADS[0], HEADS[2]]),
    "footer with one less": pack_of_records(RECORDS, HEADS[:2]),
    "footer with one more": pack_of_records(RECORDS[:2], HEADS),
    "footer of other lengths": pack_of_records(RECORDS, [_head(stored=299, raw=299), *HEADS[1:]]),
    "footer of huge lengths": pack_of_records(RECORDS, [_head(stored=2**32 - 1, raw=2**32 - 1), *HEADS[1:]]),
    "count of 2^32 - 1": pack_of_records(RECORDS, count=2**32 - 1),
    "count of none": pack_of_records(RECORDS, count=0),
    "truncated": PACK[:-1],
    "truncated within a chunk": PACK[:400],
    "a byte more": PACK + b"x",
    "a byte more, signed": signed(PACK),
    "another magic": signed(b"EMPACK\0\1" + PACK[8:-8]),
    "another version": signed(PACK[:8] + struct.pack("<I", 2) + PACK[12:-8]),
    "a flipped bit in a chunk": signed(PACK[:100] + bytes([PACK[100] ^ 1]) + PACK[101:-8]),
}


@pytest.mark.parametrize("lie", LIES)
def test_pack_that_lies_is_refused_and_leaves_nothing(uploader: Uploader, services: Services, lie: str) -> None:
    response = uploader.put(LIES[lie])
    assert response.status_code == 422, response.text
    assert response.json()["kind"] == "integrity"
    assert list(services.blobs.list()) == []
    assert uploader.missing(CHUNKS) == CHUNKS


def test_frame_that_grows_beyond_its_chunk_is_refused(uploader: Uploader) -> None:
    # A zstd frame of 4 MiB of zeros behind a record that says 64 KiB: single segment, size as u32, RLE blocks.
    blocks = b"".join(struct.pack("<I", (128 << 10) << 3 | 1 << 1 | (n == 31))[:3] + b"\0" for n in range(32))
    frame = struct.pack("<IBI", 0xFD2FB528, 0b10100000, 4 << 20) + blocks
    bomb = struct.pack("<BII", 1, len(frame), 64 << 10) + digest(bytes(64 << 10)) + frame
    response = uploader.put(pack_of_records([bomb]))
    assert response.status_code == 422, response.text


def test_wrong_name_of_a_pack_is_refused(uploader: Uploader, services: Services) -> None:
    response = uploader.put(PACK, digest(b"other"))
    assert response.status_code == 422
    assert pack_name(PACK).hex() in response.json()["detail"]
    assert list(services.blobs.list()) == []


def test_body_longer_than_a_pack_is_refused_unread(uploader: Uploader) -> None:
    headers = {"Content-Length": str((64 << 20) + 1)}
    response = uploader.call("PUT", f"/packs/{bytes(32).hex()}", content=b"x", headers=headers)
    assert response.status_code == 413


def test_body_without_a_length_is_capped(uploader: Uploader) -> None:
    def parts() -> object:
        for _ in range(65):
            yield bytes(1 << 20)

    assert uploader.call("PUT", f"/packs/{bytes(32).hex()}", content=parts()).status_code == 413


def test_pack_of_65536_chunks_is_taken(uploader: Uploader) -> None:
    chunks = [struct.pack("<I", number) for number in range(65_536)]
    assert uploader.put(pack_of(chunks)).status_code == 201
    assert uploader.missing([*chunks, b"x"]) == [b"x"]


@pytest.mark.parametrize(
    ("given", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=12-52", 12, 53),
        ("bytes=100-", 100, None),
        ("bytes=-400", -400, None),
        ("bytes=0-99999999999999", 0, None),
        (None, 0, None),
    ],
)
def test_ranges_are_as_in_http(uploader: Uploader, given: str | None, start: int, end: int | None) -> None:
    uploader.put(PACK)
    node_id = uploader.commit(Content({str(n): [chunk] for n, chunk in enumerate(CHUNKS)})).json()["node"]["id"]
    headers = {} if given is None else {"Range": given}
    params = {"artifact": node_id, "version": "1"}
    url = f"/packs/{pack_name(PACK).hex()}"
    if given == "bytes=0-0":  # the magic is nobody's
        assert uploader.call("GET", url, params=params, headers=headers).status_code == 404
        return
    response = uploader.call("GET", url, params=params, headers=headers)
    ends = len(PACK) - 8 - 8 - 4 - 41 * 3  # where the records end
    shown = bytes(12) + PACK[12:ends] + bytes(len(PACK) - ends)
    assert response.content == shown[start:end]
    assert response.status_code == (200 if given is None else 206)
    first = start % len(PACK)
    if given is not None:
        assert response.headers["content-range"] == f"bytes {first}-{first + len(response.content) - 1}/{len(PACK)}"


@pytest.mark.parametrize("given", ["bytes=99999-", "bytes=-0", "bytes=5-4"])
def test_range_without_a_byte_is_416(uploader: Uploader, given: str) -> None:
    uploader.put(PACK)
    node_id = uploader.commit(Content({"0": [CHUNKS[0]]})).json()["node"]["id"]
    response = uploader.call(
        "GET", f"/packs/{pack_name(PACK).hex()}", params={"artifact": node_id}, headers={"Range": given}
    )
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(PACK)}"


def test_lost_blob_is_told_before_an_answer_begins(uploader: Uploader, services: Services) -> None:
    uploader.put(PACK)
    node_id = uploader.commit(Content({"0": [CHUNKS[0]]})).json()["node"]["id"]
    for blob in services.blobs.list():
        services.blobs.delete(blob.key)
    for path in (f"/artifacts/{node_id}/manifest", f"/packs/{pack_name(PACK).hex()}"):
        response = uploader.call("GET", path, params={"artifact": node_id})
        assert (response.status_code, response.json()["kind"]) == (500, "error")

"""Routes of packs."""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from t9k.aistore.api.bodies import body
from t9k.aistore.api.context import AnyCaller, ServicesDep, Strict, Writer
from t9k.aistore.api.problems import responses
from t9k.aistore.artifacts import packs
from t9k.protocol import LEASE_HEADER, MAX_PACK_BYTES, PACK_TYPE

router = APIRouter(tags=["packs"])

Digest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="BLAKE3 of the pack.")]
Lease = Annotated[
    str | None,
    Header(alias=LEASE_HEADER, pattern="^[0-9a-z]{20}$", description="A lease to be renewed; none takes a new one."),
]
ArtifactQuery = Annotated[str, Query(alias="artifact", pattern="^[0-9a-z]{20}$", description="Id of an artifact.")]
VersionQuery = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Number; the latest by default.")]
Range = Annotated[str | None, Header(pattern=r"^bytes=[0-9]{0,19}-[0-9]{0,19}$", description="One range of bytes.")]

_RANGE = re.compile(r"bytes=([0-9]{0,19})-([0-9]{0,19})")


def binary(media_type: str) -> dict[str, Any]:
    """What OpenAPI says of bytes."""
    return {"content": {media_type: {"schema": {"type": "string", "format": "binary"}}}}


class PackStored(Strict):
    """A pack that the server has."""

    digest: str
    size_bytes: int
    created: bool
    lease: str


@router.put(
    "/packs/{digest}",
    status_code=201,
    responses={200: {"model": PackStored}, **responses(409, 422)},
    openapi_extra={"requestBody": {"required": True, **binary(PACK_TYPE)}},
)
async def put_pack(
    request: Request,
    caller: Writer,
    services: ServicesDep,
    response: Response,
    digest: Digest,
    lease: Lease = None,
) -> PackStored:
    """Store a pack, after every chunk in it was decoded and hashed. Once more is success."""
    name = bytes.fromhex(digest)
    intake = packs.Intake(services.database, services.blobs, caller, lease, name, services.settings.lease_s)
    try:
        with services.claims.sending(lease):
            async with body(request, MAX_PACK_BYTES, intake.take) as data:
                is_new, held = await run_in_threadpool(intake.finish, data)
                size_bytes = len(data)
    except BaseException:
        await run_in_threadpool(intake.close)
        raise
    if not is_new:
        response.status_code = 200
    return PackStored(digest=digest, size_bytes=size_bytes, created=is_new, lease=held)


@router.get(
    "/packs/{digest}",
    response_class=StreamingResponse,
    responses={200: binary(PACK_TYPE), 206: binary(PACK_TYPE), **responses(416)},
)
async def get_pack(
    caller: AnyCaller,
    services: ServicesDep,
    digest: Digest,
    node_id: ArtifactQuery,
    version: VersionQuery = None,
    range: Range = None,
) -> Response:
    """Get a range of a pack. What the version has no right to, and all that is no record, comes as zeros."""
    name = bytes.fromhex(digest)

    def look() -> tuple[int, int, int, Iterator[bytes]]:
        def read(connection: Any) -> tuple[packs.PackView, int, int, list[tuple[int, int]]]:
            view = packs.find_pack(connection, caller, node_id, version, name)
            start, end = _range_of(range, view.size_bytes)
            return view, start, end, packs.find_spans(connection, view, name, start, end)

        view, start, end, spans = services.database.read(read)
        return view.size_bytes, start, end, begun(packs.read_blocks(services.blobs, view, spans, start, end))

    size_bytes, start, end, blocks = await run_in_threadpool(look)
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    if range is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size_bytes}"
    return StreamingResponse(in_threads(blocks), 200 if range is None else 206, headers=headers, media_type=PACK_TYPE)


def _range_of(header: str | None, size_bytes: int) -> tuple[int, int]:
    """First byte of a range and the one behind its last."""
    match = _RANGE.fullmatch(header or "bytes=0-")
    first, last = match.groups() if match else ("", "")
    if first:
        start, end = int(first), min(int(last) + 1 if last else size_bytes, size_bytes)
    else:
        start, end = max(0, size_bytes - int(last or 0)), size_bytes
    if start >= end:
        raise HTTPException(416, "no byte of the pack is in the range", {"Content-Range": f"bytes */{size_bytes}"})
    return start, end


def begun(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The same blocks, of which the first is read before the answer begins.

    So a blob that is lost is a problem document: after a connection that breaks, clients would ask again and again.
    """
    return itertools.chain([next(blocks, b"")], blocks)


async def in_threads(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Blocks that are read off the event loop, each when the one before was taken."""
    while (block := await run_in_threadpool(next, blocks, None)) is not None:
        yield block

"""Routes of artifacts: upload, download, versions and aliases."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from t9k.aistore.api.bodies import body
from t9k.aistore.api.context import AnyCaller, Reader, ServicesDep, Strict, Writer
from t9k.aistore.api.nodes import IfMatch, Node, NodeId, NodePath, PlacementBody, node_model
from t9k.aistore.api.packs import Lease, VersionQuery, begun, binary, in_threads
from t9k.aistore.api.problems import responses
from t9k.aistore.artifacts import commit, download, presence, versions
from t9k.aistore.artifacts.jobs import CHECK_OBJECTS
from t9k.aistore.clock import iso
from t9k.aistore.errors import invalid
from t9k.aistore.tree.views import NodeView, view_of
from t9k.protocol import (
    BINARY_TYPE,
    CLAIM_HEADER,
    DIGEST_BYTES,
    IDEMPOTENCY_HEADER,
    MAX_COMMIT_BYTES,
    MAX_JSON_BYTES,
    MAX_LOCATE_CHUNKS,
    MAX_MISSING_CHUNKS,
    MAX_PAGE,
    MAX_PLAN_OBJECTS,
)

router = APIRouter(tags=["artifacts"])

Key = Annotated[
    str,
    Header(
        alias=IDEMPOTENCY_HEADER, min_length=1, max_length=128, description="Names the commit; same key, same answer."
    ),
]
Claim = Annotated[
    Literal["1"] | None,
    Header(alias=CLAIM_HEADER, description="The caller is about to send what is missing and nobody else is sending."),
]
Number = Annotated[int, Path(ge=1, le=2**31 - 1, description="Number of a version.")]
Alias = Annotated[str, Path(max_length=128, description="Alias of a version.")]
ObjectDigest = Annotated[str, Path(pattern="^[0-9a-f]{64}$", description="BLAKE3 of the object's bytes.")]
HexDigest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Artifact(Strict):
    """A version of an artifact."""

    node: Node
    version: int
    manifest_digest: str
    manifest_bytes: int
    state: Literal["checking", "complete", "bad"]
    bad_objects: list[str]
    object_count: int
    size_bytes: int
    metadata: dict[str, Any]
    aliases: list[str]
    pinned: bool
    created: str


class ArtifactVersions(Strict):
    """Versions of one artifact, the latest first."""

    versions: list[Artifact]
    next: str | None


class Holder(Strict):
    """An artifact with an object, and its newest version that has it."""

    node: Node
    version: int


class Holders(Strict):
    """Artifacts with an object, the oldest first; there may be more if it is `truncated`."""

    artifacts: list[Holder]
    truncated: bool


class Commit(Strict):
    """The JSON that a commit begins with."""

    manifest_digest: HexDigest
    placement: PlacementBody | None = None
    artifact_id: str | None = None
    metadata: dict[str, Any] = Field(default_factory=dict)
    aliases: list[str] = Field(default_factory=list, max_length=100)


class Committed(Strict):
    """What a commit made, or found."""

    node: Node
    version: int
    created: bool


class Retention(Strict):
    """How long versions are kept; null is for ever. The latest, pinned and named ones always stay."""

    keep_last: Annotated[int, Field(ge=1, le=2**31 - 1)] | None
    ttl_s: Annotated[int, Field(ge=0, le=10**11)] | None


class AliasTarget(Strict):
    """The version that an alias is to name."""

    version: Annotated[int, Field(ge=1, le=2**31 - 1)]


class Pin(Strict):
    """Whether a version stays whatever the retention says."""

    pinned: bool


_LABELS = TypeAdapter(list[str])
_BYTES = {"requestBody": {"required": True, **binary(BINARY_TYPE)}}


def artifact_model(version: versions.Version, seen: NodeView) -> Artifact:
    """A version for an answer."""
    return Artifact(
        node=node_model(seen),
        version=version.number,
        manifest_digest=version.manifest_digest.hex(),
        manifest_bytes=version.manifest_bytes,
        state=version.state,  # type: ignore[arg-type]
        bad_objects=[digest.hex() for digest in version.bad_objects],
        object_count=version.object_count,
        size_bytes=version.size_bytes,
        metadata=version.metadata,
        aliases=version.aliases,
        pinned=version.pinned,
        created=iso(version.created_us) or "",
    )


@router.post(
    "/artifacts/plan",
    response_class=Response,
    responses={200: binary(BINARY_TYPE), **responses()},
    openapi_extra=_BYTES,
)
async def plan_upload(request: Request, caller: Writer, services: ServicesDep) -> Response:
    """Tell which objects are unknown: digest and size of each in, a bitmap out."""
    async with body(request, MAX_PLAN_OBJECTS * (DIGEST_BYTES + 8)) as data:
        bitmap = await run_in_threadpool(presence.plan, services.database, caller, data)
    return Response(bitmap, media_type=BINARY_TYPE)


@router.post(
    "/artifacts/missing",
    response_class=Response,
    responses={200: binary(BINARY_TYPE), **responses(409)},
    openapi_extra=_BYTES,
)
async def find_missing(
    request: Request, caller: Writer, services: ServicesDep, lease: Lease = None, claim: Claim = None
) -> Response:
    """Tell which chunks are missing: digests in, a lease and a bitmap out, and one of what others are sending."""
    async with body(request, MAX_MISSING_CHUNKS * DIGEST_BYTES) as data:
        lease_s = services.settings.lease_s
        claims = services.claims if claim is not None else None
        answer = await run_in_threadpool(presence.missing, services.database, caller, lease, data, lease_s, claims)
    return Response(answer, media_type=BINARY_TYPE)


@router.post(
    "/artifacts/commit",
    status_code=201,
    responses={200: {"model": Committed}, **responses(409, 422)},
    openapi_extra=_BYTES,
)
async def commit_artifact(
    request: Request, caller: Writer, services: ServicesDep, response: Response, key: Key, lease: Lease = None
) -> Committed:
    """Make a version of an artifact from a manifest whose objects are there; all or nothing."""
    async with body(request, MAX_COMMIT_BYTES, _Start().take) as data:

        def work() -> Committed:
            wish, rest = _wish(data, key, lease)
            done = commit.commit(services.database, services.blobs, caller, wish, rest, services.settings.lease_s)
            seen = services.database.read(lambda connection: view_of(connection, caller, done.node_id))
            return Committed(node=node_model(seen), version=done.number, created=done.created)

        made = await run_in_threadpool(work)
    services.background.wake(CHECK_OBJECTS)
    if not made.created:
        response.status_code = 200
    return made


class _Start:
    """Looks at the beginning of a long commit while the rest of it arrives."""

    def __init__(self) -> None:
        self._is_seen = False

    def take(self, piece: memoryview) -> None:
        """Refuses a body that begins as none may that has not ended yet."""
        if not self._is_seen:
            self._is_seen = True
            commit.check_start(_split(piece)[1])


def _split(data: memoryview) -> tuple[memoryview, memoryview]:
    """The JSON of a commit, and what follows it."""
    length = int.from_bytes(data[:4], "little")
    if len(data) < 4 or length > min(len(data) - 4, MAX_JSON_BYTES):
        raise invalid(f"the body begins with the length (u32) of at most {MAX_JSON_BYTES} bytes of JSON")
    return data[4 : 4 + length], data[4 + length :]


def _wish(data: memoryview, key: str, lease: str | None) -> tuple[commit.Wish, memoryview]:
    """What a commit asks for, and what follows the JSON."""
    text, rest = _split(data)
    try:
        asked = Commit.model_validate_json(bytes(text))
        labels = _LABELS.validate_python(asked.metadata.get("labels") or [])
        description = TypeAdapter(str).validate_python(asked.metadata.get("description") or "", strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:8])
        raise invalid(f"{where}: {first['msg']}"[:500]) from None
    wish = commit.Wish(
        placement=asked.placement.placement() if asked.placement else None,
        artifact_id=asked.artifact_id,
        manifest_digest=bytes.fromhex(asked.manifest_digest),
        key=key,
        lease=lease,
        metadata=asked.metadata,
        labels=labels,
        description=description,
        aliases=asked.aliases,
    )
    return wish, rest


@router.get("/artifacts", responses=responses(409))
def get_artifact(caller: AnyCaller, services: ServicesDep, response: Response, path: NodePath) -> Artifact:
    """Get the version at `/user/…/name`, `…/name:alias`, `…/name:number` or `…/name@digest`."""

    def work(connection: Connection) -> Artifact:
        found = versions.resolve(connection, caller, path)
        return artifact_model(found, view_of(connection, caller, found.node.id))

    return _answer(response, services.database.read(work))


def _answer(response: Response, artifact: Artifact) -> Artifact:
    response.headers["ETag"] = f'"{artifact.node.version}"'
    return artifact


@router.get("/objects/{digest}/artifacts", responses=responses())
def list_holders(
    caller: Reader,
    services: ServicesDep,
    digest: ObjectDigest,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most artifacts in the answer.")] = 100,
) -> Holders:
    """List the artifacts with an object, by the BLAKE3 of a file's bytes, as far as the caller may see."""
    found = services.database.read(
        lambda connection: versions.holders(connection, caller, bytes.fromhex(digest), limit)
    )
    artifacts = [Holder(node=node_model(seen), version=number) for seen, number in found.found]
    return Holders(artifacts=artifacts, truncated=found.is_truncated)


@router.get("/artifacts/{node_id}", responses=responses())
def get_version(
    caller: AnyCaller, services: ServicesDep, response: Response, node_id: NodeId, version: VersionQuery = None
) -> Artifact:
    """Get a version of an artifact, the latest by default."""
    found = services.database.read(lambda connection: _version(connection, caller, node_id, version))
    return _answer(response, found)


def _version(connection: Connection, caller: AnyCaller, node_id: str, number: int | None) -> Artifact:
    found = versions.find_version(connection, caller, node_id, number)
    return artifact_model(found, view_of(connection, caller, found.node.id))


@router.get("/artifacts/{node_id}/versions", responses=responses())
def list_versions(
    caller: AnyCaller,
    services: ServicesDep,
    node_id: NodeId,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    cursor: Annotated[str | None, Query(pattern="^[0-9]{1,10}$", description="`next` of the page before.")] = None,
) -> ArtifactVersions:
    """List the versions of an artifact, the latest first."""

    def work(connection: Connection) -> ArtifactVersions:
        before = None if cursor is None else min(int(cursor), 2**31 - 1)
        found = versions.list_versions(connection, caller, node_id, before, limit + 1)
        if not found:
            return ArtifactVersions(versions=[], next=None)
        seen = view_of(connection, caller, found[0].node.id)
        shown = [artifact_model(version, seen) for version in found[:limit]]
        return ArtifactVersions(versions=shown, next=str(shown[-1].version) if len(found) > limit else None)

    return services.database.read(work)


@router.get(
    "/artifacts/{node_id}/manifest",
    response_class=StreamingResponse,
    responses={200: binary(BINARY_TYPE), **responses()},
)
def get_manifest(
    caller: AnyCaller, services: ServicesDep, node_id: NodeId, version: VersionQuery = None
) -> StreamingResponse:
    """Get the manifest of a version; its ETag is its digest."""
    found = services.database.read(lambda connection: versions.find_version(connection, caller, node_id, version))
    headers = {"ETag": f'"{found.manifest_digest.hex()}"', "Content-Length": str(found.manifest_bytes)}
    blocks = begun(download.read_manifest(services.blobs, found.manifest_key, found.manifest_bytes))
    return StreamingResponse(in_threads(blocks), headers=headers, media_type=BINARY_TYPE)


@router.post(
    "/artifacts/{node_id}/objects",
    response_class=StreamingResponse,
    responses={200: binary(BINARY_TYPE), **responses()},
    openapi_extra=_BYTES,
)
async def describe_objects(
    request: Request, caller: AnyCaller, services: ServicesDep, node_id: NodeId, version: VersionQuery = None
) -> StreamingResponse:
    """Tell size and chunk table of objects of a version: digests in, for each digest, size and table out."""
    async with body(request, MAX_PLAN_OBJECTS * DIGEST_BYTES) as data:
        answer = await run_in_threadpool(download.describe_objects, services.database, caller, node_id, version, data)
    return StreamingResponse(in_threads(answer), media_type=BINARY_TYPE)


@router.post(
    "/artifacts/{node_id}/locate",
    response_class=Response,
    responses={200: binary(BINARY_TYPE), **responses()},
    openapi_extra=_BYTES,
)
async def locate_chunks(
    request: Request, caller: AnyCaller, services: ServicesDep, node_id: NodeId, version: VersionQuery = None
) -> Response:
    """Tell where chunks of a version are: digests in, for each pack, offset and length of its record out."""
    async with body(request, MAX_LOCATE_CHUNKS * DIGEST_BYTES) as data:
        answer = await run_in_threadpool(download.locate, services.database, caller, node_id, version, data)
    return Response(answer, media_type=BINARY_TYPE)


@router.put("/artifacts/{node_id}/aliases/{alias}", responses=responses(409, 412))
def put_alias(
    caller: Writer,
    services: ServicesDep,
    response: Response,
    node_id: NodeId,
    alias: Alias,
    if_match: IfMatch,
    body: AliasTarget,
) -> Artifact:
    """Make an alias name a version, and no other."""

    def work(connection: Connection) -> Artifact:
        versions.move_alias(connection, caller, node_id, alias, body.version, if_match)
        return _version(connection, caller, node_id, body.version)

    return _answer(response, services.database.write(work))


@router.delete("/artifacts/{node_id}/aliases/{alias}", status_code=204, responses=responses(412))
def delete_alias(caller: Writer, services: ServicesDep, node_id: NodeId, alias: Alias, if_match: IfMatch) -> None:
    """Take an alias away; the version stays."""
    services.database.write(lambda connection: versions.remove_alias(connection, caller, node_id, alias, if_match))


@router.patch("/artifacts/{node_id}/versions/{number}", responses=responses(412))
def pin_version(
    caller: Writer,
    services: ServicesDep,
    response: Response,
    node_id: NodeId,
    number: Number,
    if_match: IfMatch,
    body: Pin,
) -> Artifact:
    """Pin a version, so that it stays whatever the retention says; or unpin it."""

    def work(connection: Connection) -> Artifact:
        versions.pin(connection, caller, node_id, number, pinned=body.pinned, if_match=if_match)
        return _version(connection, caller, node_id, number)

    return _answer(response, services.database.write(work))


@router.delete("/artifacts/{node_id}/versions/{number}", status_code=204, responses=responses(409, 412))
def delete_version(caller: Writer, services: ServicesDep, node_id: NodeId, number: Number, if_match: IfMatch) -> None:
    """Remove a version for good; the last one goes with its artifact only."""
    services.database.write(lambda connection: versions.remove_version(connection, caller, node_id, number, if_match))


@router.get("/artifacts/{node_id}/retention", responses=responses())
def get_retention(caller: AnyCaller, services: ServicesDep, node_id: NodeId) -> Retention:
    """Tell how long versions are kept."""
    kept = services.database.read(lambda connection: versions.get_retention(connection, caller, node_id))
    return Retention(keep_last=kept.keep_last, ttl_s=kept.ttl_s)


@router.put("/artifacts/{node_id}/retention", responses=responses(412))
def put_retention(
    caller: Writer, services: ServicesDep, node_id: NodeId, if_match: IfMatch, body: Retention
) -> Retention:
    """Change how long versions are kept."""
    kept = versions.Retention(body.keep_last, body.ttl_s)
    services.database.write(lambda connection: versions.set_retention(connection, caller, node_id, kept, if_match))
    return body

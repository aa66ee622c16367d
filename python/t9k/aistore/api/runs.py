"""Routes of runs: the record, heartbeats, the log, and what a run read and made."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field
from sqlalchemy.engine import Connection
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from t9k.aistore.api.bodies import body
from t9k.aistore.api.context import AnyCaller, ServicesDep, Strict, Writer
from t9k.aistore.api.nodes import IfMatch, Node, NodeId, NodePath, PlacementBody, node_model
from t9k.aistore.api.problems import responses
from t9k.aistore.clock import iso
from t9k.aistore.errors import invalid
from t9k.aistore.runs import edges, logs, records
from t9k.aistore.tree.views import NodeView, view_of
from t9k.protocol import BINARY_TYPE, MAX_DESCRIPTION_BYTES, MAX_LABELS
from t9k.protocol.runs import MAX_CLIENT_ID_CHARS, MAX_EDGES, MAX_LOG_BYTES, MAX_LOG_PART_BYTES, RUN_STATES

router = APIRouter(tags=["runs"])

State = Literal["Running", "Complete", "Failed", "Crashed"]
assert set(RUN_STATES) == set(State.__args__)  # type: ignore[attr-defined]
Stamp = Annotated[str, Field(max_length=40, description="ISO 8601 with an offset, or UTC.")]
Document = Annotated[dict[str, Any], Field(description="A JSON object; numbers that JSON lacks are refused.")]
_YEAR_9999_US = 253_370_764_800_000_000
_RANGE = re.compile(r"bytes=(?=\d|-\d)(\d{0,18})-(\d{0,18})")

BINARY_BODY = {
    "requestBody": {"required": True, "content": {BINARY_TYPE: {"schema": {"type": "string", "format": "binary"}}}}
}


class RunParts(Strict):
    """What a client says of a run; what is left out stays as it is."""

    state: State | None = None
    start_timestamp: Stamp | None = None
    end_timestamp: Stamp | None = None
    labels: Annotated[list[str], Field(max_length=MAX_LABELS)] | None = None
    description: Annotated[str, Field(max_length=MAX_DESCRIPTION_BYTES)] | None = None
    metadata: Document | None = None
    hparams: Document | None = None
    platform: Document | None = None
    git: Document | None = None

    def parts(self) -> records.Parts:
        """For the rules."""
        values = self.model_dump(include=set(RunParts.model_fields) - {"start_timestamp", "end_timestamp"})
        return records.Parts(**values, started_us=_us(self.start_timestamp), ended_us=_us(self.end_timestamp))


class NewRun(RunParts):
    """A run to be made; the same `client_id` of the same user makes it once."""

    client_id: Annotated[str, Field(max_length=MAX_CLIENT_ID_CHARS, pattern="^[A-Za-z0-9_-]+$")]
    placement: PlacementBody


class PlacedRun(Strict):
    """The node of a run, and whether this request made it."""

    node: Node
    created: bool


class Run(Strict):
    """The record of a run."""

    node: Node
    client_id: str
    state: State
    start_timestamp: str
    end_timestamp: str | None
    heartbeat: str | None
    log_bytes: int
    metadata: dict[str, Any]
    hparams: dict[str, Any]
    platform: dict[str, Any]
    git: dict[str, Any]


class Alive(Strict):
    """The state of a run after a heartbeat."""

    state: State


class LogEnd(Strict):
    """Where a log ends."""

    log_bytes: int


class EdgeTarget(Strict):
    """A node by `id` or `path`, or what is in no tree of this server by `type` and `name`."""

    id: str | None = None
    path: str | None = None
    type: str | None = None
    name: str | None = None


class RunEdges(Strict):
    """Inputs, outputs or both of a run; those that are left out stay as they are."""

    inputs: Annotated[list[EdgeTarget], Field(max_length=MAX_EDGES)] | None = None
    outputs: Annotated[list[EdgeTarget], Field(max_length=MAX_EDGES)] | None = None


def _us(stamp: str | None) -> int | None:
    if stamp is None:
        return None
    try:
        time = datetime.fromisoformat(stamp)
        time_us = int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise invalid(f"{stamp!r} is no time in ISO 8601") from None
    if not 0 <= time_us < _YEAR_9999_US:
        raise invalid(f"{stamp!r} is not between 1970 and 9999")
    return time_us


def _answer(response: Response, seen: NodeView, run: records.Run) -> Run:
    response.headers["ETag"] = f'"{seen.version}"'
    record = run.record
    return Run(
        node=node_model(seen),
        client_id=record.client_id,
        state=record.state,
        start_timestamp=iso(record.started_us) or "",
        end_timestamp=iso(record.ended_us),
        heartbeat=iso(record.heartbeat_us or None),
        log_bytes=record.log_bytes,
        metadata=record.metadata,
        hparams=record.hparams,
        platform=record.platform,
        git=record.git,
    )


@router.post("/runs", status_code=201, responses={200: {"model": PlacedRun}, **responses(409)})
def post_run(caller: Writer, services: ServicesDep, response: Response, run: NewRun) -> PlacedRun:
    """Make a run."""
    parts, placement = run.parts(), run.placement.placement()

    def work(connection: Connection) -> tuple[NodeView, bool]:
        placed = records.create(connection, caller, run.client_id, placement, parts)
        return view_of(connection, caller, placed.node_id), placed.created

    seen, is_new = services.database.write(work)
    response.status_code = 201 if is_new else 200
    response.headers["ETag"] = f'"{seen.version}"'
    return PlacedRun(node=node_model(seen), created=is_new)


@router.get("/runs", responses=responses())
def get_run_at(caller: AnyCaller, services: ServicesDep, response: Response, path: NodePath) -> Run:
    """Get the run at a path; shortcuts are followed."""

    def work(connection: Connection) -> tuple[NodeView, records.Run]:
        run = records.read_at(connection, caller, path)
        return view_of(connection, caller, run.node.id), run

    return _answer(response, *services.database.read(work))


@router.get("/runs/{node_id}", responses=responses())
def get_run(caller: AnyCaller, services: ServicesDep, response: Response, node_id: NodeId) -> Run:
    """Get a run."""

    def work(connection: Connection) -> tuple[NodeView, records.Run]:
        run = records.read(connection, caller, node_id)
        return view_of(connection, caller, run.node.id), run

    return _answer(response, *services.database.read(work))


@router.patch("/runs/{node_id}", responses=responses(412))
def patch_run(
    caller: Writer,
    services: ServicesDep,
    response: Response,
    node_id: NodeId,
    if_match: IfMatch,
    changed: RunParts,
) -> Run:
    """Change parts of a run."""
    parts = changed.parts()

    def work(connection: Connection) -> tuple[NodeView, records.Run]:
        records.change(connection, caller, node_id, parts, if_match)
        run = records.read(connection, caller, node_id)
        return view_of(connection, caller, run.node.id), run

    return _answer(response, *services.database.write(work))


@router.post("/runs/{node_id}/heartbeat", responses=responses())
def post_heartbeat(caller: Writer, services: ServicesDep, node_id: NodeId) -> Alive:
    """Tell that a run lives. A run that counted as crashed runs again; one that has ended stays so."""
    return Alive(state=records.beat(services.database, caller, node_id))  # type: ignore[arg-type]


@router.put("/runs/{node_id}/edges", status_code=204, responses=responses())
def put_edges(caller: Writer, services: ServicesDep, node_id: NodeId, sides: RunEdges) -> None:
    """Set what a run read, what it made, or both."""
    inputs, outputs = (
        None if targets is None else [edges.Target(**target.model_dump()) for target in targets]
        for targets in (sides.inputs, sides.outputs)
    )
    services.database.write(lambda connection: edges.put(connection, caller, node_id, inputs, outputs))


@router.put("/runs/{node_id}/log", responses=responses(409), openapi_extra=BINARY_BODY)
async def put_log(
    caller: Writer,
    services: ServicesDep,
    request: Request,
    node_id: NodeId,
    offset: Annotated[int, Query(ge=0, le=MAX_LOG_BYTES, description="Of the body's first byte.")],
) -> LogEnd:
    """Append to a run's log. Bytes that it has already are passed over; a gap is refused."""
    async with body(request, MAX_LOG_PART_BYTES) as data:
        end = await run_in_threadpool(logs.append, services.database, caller, node_id, offset, bytes(data))
    return LogEnd(log_bytes=end)


@router.get(
    "/runs/{node_id}/log",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/plain": {}}, "description": "The log."},
        206: {"content": {"text/plain": {}}, "description": "The range."},
        **responses(416),
    },
)
def get_log(
    caller: AnyCaller,
    services: ServicesDep,
    node_id: NodeId,
    wanted: Annotated[str | None, Header(alias="Range", max_length=256, description="One range of bytes.")] = None,
) -> StreamingResponse:
    """Get a run's log, or a range of it."""
    size = logs.length(services.database, caller, node_id)
    start, stop = _range(wanted, size)
    headers = {"Accept-Ranges": "bytes", "Content-Length": str(stop - start)}
    if wanted is not None and _RANGE.fullmatch(wanted):
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    return StreamingResponse(
        logs.read(services.database, node_id, start, stop),
        206 if "Content-Range" in headers else 200,
        headers,
        media_type="text/plain; charset=utf-8",
    )


def _range(wanted: str | None, size: int) -> tuple[int, int]:
    """First byte and the one behind the last. What is no single range of bytes is passed over, as RFC 9110 says."""
    found = _RANGE.fullmatch(wanted or "")
    if found is None:
        return 0, size
    first, last = found[1], found[2]
    start = int(first) if first else max(0, size - int(last))
    stop = min(size, int(last) + 1) if first and last else size
    if start >= size or stop <= start:
        raise HTTPException(416, f"the log has {size} bytes", {"Content-Range": f"bytes */{size}"})
    return start, stop

"""Routes of the metrics of runs."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Iterable
from functools import partial
from typing import Annotated, Literal

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import APIRouter, Header, Path, Query, Request, Response
from sqlalchemy.engine import Connection

from t9k.aistore.api.bodies import body
from t9k.aistore.api.context import AnyCaller, ServicesDep, Strict, Writer
from t9k.aistore.api.nodes import NodeId
from t9k.aistore.api.problems import responses
from t9k.aistore.api.runs import BINARY_BODY
from t9k.aistore.errors import invalid
from t9k.aistore.runs import batches, buckets, points
from t9k.protocol import BINARY_TYPE
from t9k.protocol.metric_batch import (
    MAX_BATCH_BYTES,
    MAX_BATCH_POINTS,
    MAX_METRIC_TYPE_BYTES,
    NO_EPOCH,
    NOT_LOGGED_BITS,
    encode_batch,
)
from t9k.protocol.runs import MAX_CLIENT_ID_CHARS, NEXT_HEADER

router = APIRouter(tags=["runs"])

Kind = Annotated[
    str, Path(max_length=MAX_METRIC_TYPE_BYTES, description="Type of metrics: `train`, `val`, `test`, or another.")
]
Names = Annotated[
    list[str] | None, Query(alias="name", max_length=points.MAX_NAMES, description="A metric; several are repeated.")
]
Step = Annotated[int | None, Query(ge=-(2**63), le=2**63 - 1)]
Number = float | Literal["NaN", "Infinity", "-Infinity"]
MAX_JSON_CELLS = 100_000
"""Numbers in one page of JSON, which costs a hundred times as much as bytes."""

CHECKS_AT_ONCE = 2
"""Threads that check batches: they mostly need the interpreter, and more would wait for each other."""

_checks: RunVar[CapacityLimiter] = RunVar("_checks")

_CURSOR = re.compile(r"(\d{1,9})\.(\d{1,16})\.(\d{1,9})")


class Stored(Strict):
    """What became of a batch."""

    stored: bool


class Metric(Strict):
    """What is known of a metric. `min` and `max` are of its numbers, null if all are NaN."""

    name: str
    logged: int
    last: Number
    last_step: int
    min: Number | None
    max: Number | None


class MetricType(Strict):
    """A type of metrics: its points, the least and the greatest step of them, and its metrics as first logged."""

    type: str
    points: int
    first_step: int
    last_step: int
    metrics: list[Metric]


class RunMetrics(Strict):
    """The metrics of a run."""

    types: list[MetricType]


class StoredType(Strict):
    """What is stored of a session's batches of a type: the sequence number behind the last one, and their points."""

    type: str
    next_sequence: int
    points: int


class StoredSession(Strict):
    """What is stored of a session."""

    types: list[StoredType]


class Points(Strict):
    """Points in the order of their logging, in columns. `null` in `values` is "not logged at this point"."""

    steps: list[int]
    epochs: list[int | None]
    times_us: list[int]
    values: dict[str, list[Number | None]]
    next: str | None


class Course(Strict):
    """A metric in the buckets that have a point of it; item i of each list belongs to bucket `buckets[i]`."""

    name: str
    buckets: list[int]
    min: list[Number | None]
    max: list[Number | None]
    last: list[Number]
    logged: list[int]


class Chart(Strict):
    """Metrics in `width` buckets of the steps `first_step` to `last_step`.

    A step belongs to bucket `(step - first_step) * width // (last_step - first_step + 1)`.
    """

    first_step: int
    last_step: int
    width: int
    metrics: list[Course]


def _number(value: float | None) -> Number:
    """A number as JSON has it; None, as the database keeps it, is NaN."""
    if value is None or value != value:
        return "NaN"
    return value if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _limit(value: float | None) -> Number | None:
    return None if value is None else _number(value)


def _numbers(column: Iterable[float]) -> list[Number]:
    return [value if math.isfinite(value) else _number(value) for value in column]


@router.put(
    "/runs/{node_id}/metrics/{kind}/{sequence}",
    status_code=201,
    responses={200: {"model": Stored, "description": "It was stored before."}, **responses(409)},
    openapi_extra=BINARY_BODY,
)
async def put_metrics(
    caller: Writer,
    services: ServicesDep,
    request: Request,
    response: Response,
    node_id: NodeId,
    kind: Kind,
    sequence: Annotated[
        int, Path(ge=0, le=batches.MAX_SEQUENCE, description="Counts the session's batches of a type.")
    ],
    session: Annotated[
        str,
        Query(
            max_length=MAX_CLIENT_ID_CHARS,
            pattern="^[A-Za-z0-9_-]+$",
            description="Drawn at random by each process that writes to the run.",
        ),
    ],
) -> Stored:
    """Add a batch of points. The same session and sequence number is stored once."""
    async with body(request, MAX_BATCH_BYTES) as data:
        batch = bytes(data)
        put = partial(batches.put, services.database, caller, node_id, kind, session, sequence, batch)
        waiting = put() if batches.is_short(batch) else await to_thread.run_sync(put, limiter=_few_threads())
        is_new = await asyncio.wrap_future(waiting)
    response.status_code = 201 if is_new else 200
    return Stored(stored=is_new)


def _few_threads() -> CapacityLimiter:
    """The limit `CHECKS_AT_ONCE` of the running event loop."""
    try:
        return _checks.get()
    except LookupError:
        _checks.set(CapacityLimiter(CHECKS_AT_ONCE))
        return _checks.get()


@router.get("/runs/{node_id}/metrics", responses=responses())
def get_run_metrics(caller: AnyCaller, services: ServicesDep, node_id: NodeId) -> RunMetrics:
    """List the types and metrics of a run, each with its last, least and greatest value."""
    found = services.database.read(lambda connection: points.overview(connection, caller, node_id))
    return RunMetrics(
        types=[
            MetricType(
                type=kind.type,
                points=kind.points,
                first_step=kind.first_step,
                last_step=kind.last_step,
                metrics=[
                    Metric(
                        name=row.name,
                        logged=row.logged,
                        last=_number(row.last),
                        last_step=row.last_step,
                        min=_limit(row.min),
                        max=_limit(row.max),
                    )
                    for row in series
                ],
            )
            for kind, series in found
        ]
    )


@router.get("/runs/{node_id}/sessions/{session}", responses=responses())
def get_session_stored(
    caller: AnyCaller,
    services: ServicesDep,
    node_id: NodeId,
    session: Annotated[str, Path(max_length=MAX_CLIENT_ID_CHARS, pattern="^[A-Za-z0-9_-]+$")],
) -> StoredSession:
    """Tell what is stored of the batches that one writer has sent: where it goes on after a restored backup."""
    found = services.database.read(lambda connection: points.stored(connection, caller, node_id, session))
    return StoredSession(
        types=[StoredType(type=row.type, next_sequence=row.batches, points=row.points) for row in found]
    )


@router.get(
    "/runs/{node_id}/metrics/{kind}",
    responses={
        200: {
            "model": Points,
            "content": {BINARY_TYPE: {"schema": {"type": "string", "format": "binary"}}},
            "headers": {NEXT_HEADER: {"schema": {"type": "string"}, "description": "Of the binary form: `next`."}},
        },
        **responses(),
    },
)
def get_points(
    caller: AnyCaller,
    services: ServicesDep,
    node_id: NodeId,
    kind: Kind,
    name: Names = None,
    first_step: Step = None,
    last_step: Step = None,
    limit: Annotated[int, Query(ge=1, le=MAX_BATCH_POINTS, description="Most points in the answer.")] = 1000,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before.")] = None,
    accept: Annotated[
        str, Header(max_length=256, description=f"`{BINARY_TYPE}`: the bytes of a batch.")
    ] = "application/json",
) -> Response:
    """Get points in the order of their logging. Asked for bytes, the answer is a batch as clients send it."""
    start, is_binary = _position(cursor), BINARY_TYPE in accept

    def work(connection: Connection) -> points.Page:
        return points.page(
            connection,
            caller,
            node_id,
            kind,
            name or [],
            first_step=first_step,
            last_step=last_step,
            limit=limit,
            cells=points.MAX_CELLS if is_binary else MAX_JSON_CELLS,
            start=start,
        )

    page = services.database.read(work)
    following = None if page.next is None else ".".join(map(str, page.next))
    if is_binary:
        headers = {} if following is None else {NEXT_HEADER: following}
        return Response(encode_batch(page.points), headers=headers, media_type=BINARY_TYPE)
    document = {
        "steps": page.points.steps.tolist(),
        "epochs": [None if epoch == NO_EPOCH else epoch for epoch in page.points.epochs],
        "times_us": page.points.times_us.tolist(),
        "values": {
            name: [
                value if math.isfinite(value) else None if bits == NOT_LOGGED_BITS else _number(value)
                for value, bits in zip(column, memoryview(column).cast("B").cast("Q"), strict=True)
            ]
            for name, column in page.points.values.items()
        },
        "next": following,
    }
    return Response(json.dumps(document, allow_nan=False), media_type="application/json")


@router.get("/runs/{node_id}/metrics/{kind}/buckets", responses=responses())
def get_chart(
    caller: AnyCaller,
    services: ServicesDep,
    node_id: NodeId,
    kind: Kind,
    width: Annotated[int, Query(ge=1, le=buckets.MAX_WIDTH, description="Of the chart, in pixels.")],
    name: Names = None,
    first_step: Step = None,
    last_step: Step = None,
) -> Chart:
    """Get metrics as a chart shows them: least, greatest and last value for each pixel."""

    def work(connection: Connection) -> tuple[buckets.Scale, list[buckets.Course]]:
        return buckets.course(
            connection, caller, node_id, kind, name or [], first_step=first_step, last_step=last_step, width=width
        )

    scale, courses = services.database.read(work)
    return Chart(
        first_step=scale.first,
        last_step=scale.last,
        width=scale.width,
        metrics=[_course(found) for found in courses],
    )


def _course(found: buckets.Course) -> Course:
    numbers = sorted(found.buckets)
    parts = [found.buckets[number] for number in numbers]
    return Course(
        name=found.name,
        buckets=numbers,
        min=[_limit(part.min) for part in parts],
        max=[_limit(part.max) for part in parts],
        last=_numbers(part.last for part in parts),
        logged=[part.logged for part in parts],
    )


def _position(cursor: str | None) -> points.Position | None:
    if cursor is None:
        return None
    found = _CURSOR.fullmatch(cursor)
    if found is None:
        raise invalid("that is no cursor of this listing", hint="send `next` of the page before, as it is")
    return int(found[1]), int(found[2]), int(found[3])

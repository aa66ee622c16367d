"""Routes of the metrics of runs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from t9k.aistore.api.bodies import body
from t9k.aistore.api.context import ServicesDep, Strict, Writer
from t9k.aistore.api.nodes import NodeId
from t9k.aistore.api.problems import responses
from t9k.aistore.api.runs import BINARY_BODY
from t9k.aistore.runs import batches
from t9k.protocol.metric_batch import MAX_BATCH_BYTES
from t9k.protocol.runs import MAX_CLIENT_ID_CHARS

router = APIRouter(tags=["runs"])

Kind = Annotated[str, Path(max_length=200, description="Type of metrics: `train`, `val`, `test`, or another.")]


class Stored(Strict):
    """What became of a batch."""

    stored: bool


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
        is_new = await run_in_threadpool(
            batches.put, services.database, caller, node_id, kind, session, sequence, bytes(data)
        )
    response.status_code = 201 if is_new else 200
    return Stored(stored=is_new)

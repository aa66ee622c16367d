"""The requests of `docs/protocol.md` about runs, one function for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from t9k.em.client.session import Session
from t9k.em.errors import TransferError
from t9k.protocol import BINARY_TYPE
from t9k.protocol.metric_batch import MAX_BATCH_POINTS
from t9k.protocol.runs import MAX_LOG_BYTES, MAX_LOG_PART_BYTES, NEXT_HEADER

MAX_RECORD_BYTES = 64 << 20
MAX_POINTS_BYTES = 64 << 20


def create(session: Session, body: Mapping[str, Any], what: str) -> Mapping[str, Any]:
    """Makes a run, or finds the one that this user has made under the same `client_id`: `node`, `created`."""
    return _mapping(session.request("POST", "/runs", what, json=body, repeat=True).json(), what)


def find(session: Session, path: str) -> Mapping[str, Any] | None:
    """The record of the run at a path of the server; None if there is none that the caller may see."""
    what = f"cannot look for {path!r} at {session.url}"
    answer = session.request("GET", "/runs", what, params={"path": path}, accept={404}, max_bytes=MAX_RECORD_BYTES)
    return None if answer.status == 404 else _mapping(answer.json(), what)


def get(session: Session, run_id: str, what: str) -> Mapping[str, Any]:
    """The record of a run."""
    return _mapping(session.request("GET", f"/runs/{run_id}", what, max_bytes=MAX_RECORD_BYTES).json(), what)


def change(session: Session, run_id: str, parts: Mapping[str, Any], what: str) -> None:
    """Writes parts of a record. Writing the same again changes nothing."""
    session.request("PATCH", f"/runs/{run_id}", what, json=parts, repeat=True, max_bytes=MAX_RECORD_BYTES)


def put_metrics(session: Session, run_id: str, kind: str, writer: str, sequence: int, batch: bytes, what: str) -> None:
    """Adds a batch of points; the same writer and sequence number is stored once."""
    session.request(
        "PUT",
        f"/runs/{run_id}/metrics/{quote(kind, safe='')}/{sequence}",
        what,
        params={"session": writer},
        body=batch,
        headers={"Content-Type": BINARY_TYPE},
    )


def stored_of_session(session: Session, run_id: str, writer: str, what: str) -> dict[str, tuple[int, int]]:
    """What the server has of a writer's batches: by type, the sequence number behind the last one, and their points."""
    answer = session.request("GET", f"/runs/{run_id}/sessions/{writer}", what, max_bytes=MAX_RECORD_BYTES)
    document = _mapping(answer.json(), what)
    try:
        return {str(one["type"]): (int(one["next_sequence"]), int(one["points"])) for one in document["types"]}
    except (KeyError, TypeError, ValueError):
        raise TransferError(f"{what}: the server's answer has another form") from None


def metric_counts(session: Session, run_id: str, what: str) -> dict[str, int]:
    """How many points of each type the server has."""
    document = _mapping(
        session.request("GET", f"/runs/{run_id}/metrics", what, max_bytes=MAX_RECORD_BYTES).json(), what
    )
    try:
        return {str(one["type"]): int(one["points"]) for one in document["types"]}
    except (KeyError, TypeError, ValueError):
        raise TransferError(f"{what}: the server's answer has another form") from None


def read_metrics(session: Session, run_id: str, kind: str, what: str) -> Iterator[bytes]:
    """All points of a type as batches, in the order of their logging."""
    params: dict[str, str | int] = {"limit": MAX_BATCH_POINTS}
    while True:
        answer = session.request(
            "GET",
            f"/runs/{run_id}/metrics/{quote(kind, safe='')}",
            what,
            params=params,
            headers={"Accept": BINARY_TYPE},
            max_bytes=MAX_POINTS_BYTES,
        )
        if answer.body:
            yield bytes(answer.body)
        following = answer.headers.get(NEXT_HEADER)
        if not following:
            return
        params["cursor"] = following


def put_log(session: Session, run_id: str, offset: int, part: bytes, what: str) -> None:
    """Appends to the log; what it has already is passed over."""
    session.request(
        "PUT", f"/runs/{run_id}/log", what, params={"offset": offset}, body=part, headers={"Content-Type": BINARY_TYPE}
    )


def read_log(session: Session, run_id: str, what: str) -> Iterator[bytes]:
    """The log, part by part."""
    offset = 0
    while offset < MAX_LOG_BYTES:
        headers = {"Range": f"bytes={offset}-{offset + MAX_LOG_PART_BYTES - 1}"}
        answer = session.request(
            "GET", f"/runs/{run_id}/log", what, headers=headers, accept={416}, max_bytes=MAX_LOG_BYTES
        )
        if answer.status == 416 or not answer.body:
            return
        yield bytes(answer.body)
        if answer.status == 200 or len(answer.body) < MAX_LOG_PART_BYTES:
            return
        offset += len(answer.body)


def beat(session: Session, run_id: str, what: str) -> None:
    """Tells that a run lives."""
    session.request("POST", f"/runs/{run_id}/heartbeat", what, repeat=True)


def put_edges(session: Session, run_id: str, edges: Mapping[str, Any], what: str) -> None:
    """Sets what a run read and made."""
    session.request("PUT", f"/runs/{run_id}/edges", what, json=edges)


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TransferError(f"{what}: the server's answer has another form")
    return value

"""Taking in batches of metrics: each once, in its place, with what lists and filters need to know of it.

The points of a type are in the order in which they were logged: by session, in the order of the sessions' first
batches; in a session by sequence number; in a batch as they are. A batch that comes late is therefore read where it
would have been, and the last value of a metric is the one that is last in this order.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import Database, metrics
from t9k.aistore.db.metrics import Block
from t9k.aistore.errors import conflict, invalid, not_found
from t9k.aistore.runs.records import check_client_id
from t9k.aistore.tree.access import Access, node_for
from t9k.protocol.metric_batch import MAX_METRIC_TYPE_BYTES, NOT_LOGGED_BITS, Batch, decode_batch
from t9k.protocol.runs import MAX_METRIC_NAMES, MAX_METRIC_POINTS, MAX_METRIC_SESSIONS, MAX_METRIC_TYPES

_NO_TYPE = re.compile(r"[/\\]|^\.")

MAX_SEQUENCE = 2**53
"""A number that every JSON parser holds."""


@dataclass(frozen=True)
class Summary:
    """What a batch, or a block, says of one metric.

    Attributes:
        logged: Points at which it was logged.
        last: The value at the last of them, and `last_step` its step.
        min: Least number, None if all are NaN.
    """

    logged: int
    last: float
    last_step: int
    min: float | None
    max: float | None


def put(database: Database, caller: Caller, run_id: str, kind: str, session: str, sequence: int, data: bytes) -> bool:
    """Stores a batch, durable when this returns; answers whether it was new.

    A batch of a sequence number that the session has sent before is not looked at: the first one counts.

    Raises:
        Refusal: As `runs.records.check_run`; the batch is none or too large (`invalid_input`); the run has no room for
            it (`conflict`).
    """
    check_type(kind)
    check_client_id(session, "a session")
    if not 0 <= sequence <= MAX_SEQUENCE:
        raise invalid(f"a sequence number is 0 to {MAX_SEQUENCE}, not {sequence}")
    try:
        batch = decode_batch(data)
    except ValueError as error:
        raise invalid(str(error)) from error
    if not len(batch) or not batch.values:
        raise invalid(f"a batch of {len(batch)} points of {len(batch.values)} metrics says nothing")
    summarized = {name: summarize(batch.steps, values) for name, values in batch.values.items()}
    summaries = {name: summary for name, summary in summarized.items() if summary is not None}
    # Apart from the write, so that a caller who may not does not fail the transaction of others.
    database.read(lambda connection: node_for(connection, caller, run_id, Access.EDIT))
    return database.write_to_run(
        run_id, lambda connection: _store(connection, run_id, kind, session, sequence, batch, summaries, data)
    )


def check_type(kind: str) -> str:
    """The type of metrics, if it can be one.

    Raises:
        Refusal: It cannot (`invalid_input`).
    """
    if not 1 <= len(kind.encode(errors="replace")) <= MAX_METRIC_TYPE_BYTES or not kind.isprintable():
        raise invalid(f"a type of metrics is 1 to {MAX_METRIC_TYPE_BYTES} bytes of printable text")
    if _NO_TYPE.search(kind):
        raise invalid(f"the type {kind[:80]!r} has a slash or begins with a dot")
    return kind


def summarize(steps: array[int], values: array[float]) -> Summary | None:
    """What a column says; None if nothing was logged. 25 ns a value, without a Python loop unless there is a NaN."""
    total = sum(values)
    if total == total:  # no NaN, and no infinities of both signs
        return Summary(len(values), values[-1], steps[-1], min(values), max(values))
    bits = memoryview(values).cast("B").cast("Q").tolist()
    logged = [index for index, item in enumerate(bits) if item != NOT_LOGGED_BITS]
    if not logged:
        return None
    numbers = [value for value in values if value == value]
    last = logged[-1]
    return Summary(len(logged), values[last], steps[last], min(numbers, default=None), max(numbers, default=None))


def _store(
    connection: metrics.Connection,
    run_id: str,
    kind: str,
    session: str,
    sequence: int,
    batch: Batch,
    summaries: dict[str, Summary],
    data: bytes,
) -> bool:
    place = metrics.place_of(connection, run_id, kind, session, sequence)
    if place is None:
        raise not_found(f"node {run_id} is no run")
    if place.stored_to is not None and place.stored_to >= sequence:
        return False
    number = _new_session(connection, run_id, session) if place.session is None else place.session
    first_step, last_step = min(batch.steps), max(batch.steps)
    _count(connection, run_id, kind, place, len(batch), first_step, last_step)
    _merge(connection, run_id, kind, number, sequence, summaries)
    block = Block(
        run_id, kind, number, sequence, sequence, 0, len(batch), len(batch.values), first_step, last_step, data
    )
    metrics.add_block(connection, block)
    return True


def _new_session(connection: metrics.Connection, run_id: str, session: str) -> int:
    number = metrics.add_session(connection, run_id, session)
    if number >= MAX_METRIC_SESSIONS:
        raise conflict(f"a run has at most {MAX_METRIC_SESSIONS} sessions", hint="make another run")
    return number


def _count(
    connection: metrics.Connection, run_id: str, kind: str, before: Any, points: int, first_step: int, last_step: int
) -> None:
    """Adds a batch to what is known of its type."""
    if before.points is None:
        if metrics.count_types(connection, run_id) >= MAX_METRIC_TYPES:
            raise conflict(f"a run has at most {MAX_METRIC_TYPES} types of metrics")
        metrics.add_type(connection, run_id, kind, points, first_step, last_step)
        return
    points += before.points
    if points > MAX_METRIC_POINTS:
        raise conflict(f"a type has at most {MAX_METRIC_POINTS} points", hint="log less often")
    first_step, last_step = min(first_step, before.first_step), max(last_step, before.last_step)
    metrics.update_type(connection, run_id, kind, points, first_step, last_step)


def _merge(
    connection: metrics.Connection, run_id: str, kind: str, session: int, sequence: int, summaries: dict[str, Summary]
) -> None:
    """Adds what a batch says of its metrics to what is known of them."""
    known = metrics.series_of(connection, run_id, kind, list(summaries))
    next_number = 0
    if len(known) < len(summaries):
        next_number = metrics.count_series(connection, run_id, kind)
        if next_number + len(summaries) - len(known) > MAX_METRIC_NAMES:
            raise conflict(f"a type has at most {MAX_METRIC_NAMES} metrics")
    added, changed = [], []
    for name, summary in summaries.items():
        row: dict[str, Any] = {"node_id": run_id, "type": kind, "name": name}
        last = {"last": summary.last, "last_step": summary.last_step}
        last |= {"last_session": session, "last_sequence": sequence}
        if name not in known:
            added.append(
                {**row, "number": next_number, "logged": summary.logged, **last, "min": summary.min, "max": summary.max}
            )
            next_number += 1
            continue
        before = known[name]
        if (before.last_session, before.last_sequence) > (session, sequence):
            last = {key: getattr(before, key) for key in last}
        row |= {"logged": before.logged + summary.logged, **last}
        row |= {"min": least(min, before.min, summary.min), "max": least(max, before.max, summary.max)}
        changed.append(row)
    metrics.write_series(connection, added, changed)


def least(choose: Callable[[float, float], float], first: float | None, second: float | None) -> float | None:
    """The least (or with `max` the greatest) of two, of which None is "no number"."""
    if first is None or second is None:
        return second if first is None else first
    return choose(first, second)

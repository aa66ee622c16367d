"""Taking in batches of metrics: each once, in its place, with what lists and filters need to know of it.

The points of a type are in the order in which they were logged: by session, in the order of the sessions' first
batches; in a session by sequence number; in a batch as they are. A batch that comes late is therefore read where it
would have been, and the last value of a metric is the one that is last in this order.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import new_id
from t9k.aistore.db import Database, nodes
from t9k.aistore.db import metric_arrivals as arrivals
from t9k.aistore.errors import Refusal, conflict, invalid, not_found
from t9k.aistore.runs.records import check_client_id
from t9k.aistore.tree.access import Access, check_node
from t9k.protocol.metric_batch import MAX_METRIC_TYPE_BYTES, NOT_LOGGED_BITS, count_names, decode_batch
from t9k.protocol.runs import MAX_METRIC_NAMES, MAX_METRIC_POINTS, MAX_METRIC_SESSIONS, MAX_METRIC_TYPES

_NO_TYPE = re.compile(r"[/\\]|^\.")

MAX_SEQUENCE = 2**53
"""A number that every JSON parser holds."""

SHORT_BYTES = 64 << 10
SHORT_NAMES = 100
"""Most bytes and metrics of a batch that is checked where it comes: handing 1,000 points of 4 metrics to a thread made
every request 8 % dearer."""

MAX_TOGETHER = 20_000
"""Metrics of batches that are stored by the same statements."""


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


@dataclass(frozen=True)
class Arrival:
    """A batch that is to be stored: whose it is, where it belongs, and what is to be known of it without reading it."""

    caller: Caller
    run_id: str
    kind: str
    session: str
    sequence: int
    points: int
    names: int
    first_step: int
    last_step: int
    summaries: dict[str, Summary]
    data: bytes

    @property
    def place(self) -> arrivals.Place:
        """Where it belongs."""
        return self.run_id, self.kind, self.session, self.sequence

    @property
    def series(self) -> list[arrivals.Series]:
        """Its metrics, in the order of `summaries`."""
        return [(self.run_id, self.kind, name) for name in self.summaries]


def put(
    database: Database, caller: Caller, run_id: str, kind: str, session: str, sequence: int, data: bytes
) -> Future[bool]:
    """Checks a batch and begins to store it. It is durable when the future says whether it was new.

    A batch of a sequence number that the session has sent before is not looked at: the first one counts.

    Raises:
        Refusal: As `runs.records.check_run`; the batch is none or too large (`invalid_input`); the run has no room for
            it (`conflict`, by the future).
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
    arrival = Arrival(
        caller=caller,
        run_id=run_id,
        kind=kind,
        session=session,
        sequence=sequence,
        points=len(batch),
        names=len(batch.values),
        first_step=min(batch.steps),
        last_step=max(batch.steps),
        summaries=summaries,
        data=data,
    )
    return database.write_to_run_together(run_id, _store, arrival)


def is_short(data: bytes) -> bool:
    """Whether `put` takes so little time, at most about 0.3 ms, that it needs no thread."""
    return len(data) <= SHORT_BYTES and count_names(data) <= SHORT_NAMES


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


def _store(connection: arrivals.Connection, waiting: Sequence[Arrival]) -> list[bool | Refusal]:
    """Stores batches of many runs; answers of each whether it was new, or why it cannot be stored."""
    outcomes: dict[int, bool | Refusal] = {}
    for round_ in _rounds(waiting):
        batches = [waiting[index] for index in round_]
        sights = nodes.sights(connection, [batch.run_id for batch in batches])
        places = arrivals.places_of(connection, [batch.place for batch in batches])
        known = arrivals.series_at(connection, [key for batch in batches for key in batch.series])
        rows = arrivals.Rows()
        for index, batch, place in zip(round_, batches, places, strict=True):
            try:
                check_node(batch.caller, sights.get(batch.run_id), batch.run_id, Access.EDIT)
                outcomes[index] = _add(connection, batch, place, known, rows)
            except Refusal as refusal:
                outcomes[index] = refusal
        arrivals.write(connection, rows)
    return [outcomes[index] for index in range(len(waiting))]


def _rounds(waiting: Sequence[Arrival]) -> Iterator[list[int]]:
    """Indices of batches that can be stored together: each run once, and no more metrics than a statement takes."""
    left = list(range(len(waiting)))
    while left:
        chosen: list[int] = []
        later: list[int] = []
        runs: set[str] = set()
        names = 0
        for index in left:
            batch = waiting[index]
            if batch.run_id in runs or (chosen and names + len(batch.summaries) > MAX_TOGETHER):
                later.append(index)
                continue
            chosen.append(index)
            runs.add(batch.run_id)
            names += len(batch.summaries)
        yield chosen
        left = later


def _add(
    connection: arrivals.Connection,
    batch: Arrival,
    place: Any,
    known: Mapping[arrivals.Series, Any],
    rows: arrivals.Rows,
) -> bool:
    """Adds what a batch changes to `rows`; answers whether it is new. What is refused changes nothing."""
    if place is None:
        raise not_found(f"node {batch.run_id} is no run")
    if place.stored_to is not None and place.stored_to >= batch.sequence:
        return False
    kind = _counted(connection, batch, place)
    session = place.session
    if session is None:
        session = arrivals.count_sessions(connection, batch.run_id)
        if session >= MAX_METRIC_SESSIONS:
            raise conflict(f"a run has at most {MAX_METRIC_SESSIONS} sessions", hint="make another run")
    _merge(connection, batch, session, known, rows)  # the last that may refuse
    if place.session is None:
        rows.sessions.append({"node_id": batch.run_id, "session": batch.session, "number": session})
    (rows.types if place.points is None else rows.changed_types).append(kind)
    rows.blocks.append(
        {
            "id": new_id(),
            "node_id": batch.run_id,
            "type": batch.kind,
            "session": session,
            "first_sequence": batch.sequence,
            "last_sequence": batch.sequence,
            "level": 0,
            "points": batch.points,
            "names": batch.names,
            "first_step": batch.first_step,
            "last_step": batch.last_step,
            "batch": batch.data,
        }
    )
    return True


def _counted(connection: arrivals.Connection, batch: Arrival, before: Any) -> dict[str, Any]:
    """The row of the batch's type, with the batch."""
    points, first_step, last_step = batch.points, batch.first_step, batch.last_step
    if before.points is None:
        if arrivals.count_types(connection, batch.run_id) >= MAX_METRIC_TYPES:
            raise conflict(f"a run has at most {MAX_METRIC_TYPES} types of metrics")
    else:
        points += before.points
        first_step, last_step = min(first_step, before.first_step), max(last_step, before.last_step)
    if points > MAX_METRIC_POINTS:
        raise conflict(f"a type has at most {MAX_METRIC_POINTS} points", hint="log less often")
    row = {"node_id": batch.run_id, "type": batch.kind}
    return row | {"points": points, "first_step": first_step, "last_step": last_step}


def _merge(
    connection: arrivals.Connection,
    batch: Arrival,
    session: int,
    known: Mapping[arrivals.Series, Any],
    rows: arrivals.Rows,
) -> None:
    """Adds what a batch says of its metrics to what is known of them."""
    next_number, new = 0, sum(key not in known for key in batch.series)
    if new:
        next_number = arrivals.count_series(connection, batch.run_id, batch.kind)
        if next_number + new > MAX_METRIC_NAMES:
            raise conflict(f"a type has at most {MAX_METRIC_NAMES} metrics")
    for (name, summary), key in zip(batch.summaries.items(), batch.series, strict=True):
        row: dict[str, Any] = {"node_id": batch.run_id, "type": batch.kind, "name": name}
        last = {"last": summary.last, "last_step": summary.last_step}
        last |= {"last_session": session, "last_sequence": batch.sequence}
        before = known.get(key)
        if before is None:
            row |= {"number": next_number, "logged": summary.logged, **last, "min": summary.min, "max": summary.max}
            rows.series.append(row)
            next_number += 1
            continue
        if (before.last_session, before.last_sequence) > (session, batch.sequence):
            last = {field: getattr(before, field) for field in last}
        row |= {"logged": before.logged + summary.logged, **last}
        row |= {"min": least(min, before.min, summary.min), "max": least(max, before.max, summary.max)}
        rows.changed_series.append(row)


def least(choose: Callable[[float, float], float], first: float | None, second: float | None) -> float | None:
    """The least (or with `max` the greatest) of two, of which None is "no number"."""
    if first is None or second is None:
        return second if first is None else first
    return choose(first, second)

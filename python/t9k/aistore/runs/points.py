"""Reading metrics: what a run has, and its points in the order of their logging."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import metrics
from t9k.aistore.errors import invalid, not_found
from t9k.aistore.runs import blocks
from t9k.aistore.runs.batches import check_type
from t9k.aistore.runs.blocks import Columns
from t9k.aistore.runs.records import check_client_id, check_run
from t9k.protocol.metric_batch import Batch

MAX_NAMES = 1000
"""Metrics that one request reads."""

MAX_CELLS = 900_000
"""Numbers in one page, so that it is no longer than a batch may be."""

Position = tuple[int, int, int]
"""Of a point: number of the session, sequence number, place in the batch. Merging does not change it."""


@dataclass(frozen=True)
class Page:
    """Points in the order of their logging, and where the next page begins; None at the end."""

    points: Batch
    next: Position | None


def overview(connection: metrics.Connection, caller: Caller, run_id: str) -> list[tuple[Any, list[Any]]]:
    """The types of a run, each with what is known of its metrics. Reads no points.

    Raises:
        Refusal: As `runs.records.check_run`.
    """
    check_run(connection, caller, run_id)
    return [
        (kind, list(metrics.series_of(connection, run_id, kind.type).values()))
        for kind in metrics.types_of(connection, run_id)
    ]


def stored(connection: metrics.Connection, caller: Caller, run_id: str, session: str) -> list[Any]:
    """What a run has of a session: by type, the number behind its last batch, and its points.

    Raises:
        Refusal: As `runs.records.check_run`; that is no session (`invalid_input`).
    """
    check_client_id(session, "a session")
    check_run(connection, caller, run_id)
    return metrics.stored_of(connection, run_id, session)


def page(
    connection: metrics.Connection,
    caller: Caller,
    run_id: str,
    kind: str,
    names: Sequence[str],
    *,
    first_step: int | None = None,
    last_step: int | None = None,
    limit: int,
    cells: int = MAX_CELLS,
    start: Position | None = None,
) -> Page:
    """Points of some metrics, or of all if none is named.

    Args:
        connection: Of the transaction.
        caller: Who asks.
        run_id: Of the run.
        kind: Type of metrics.
        names: Of the metrics; a point that has none of them is in the answer too.
        first_step: Least step of the points.
        last_step: Greatest step of the points.
        limit: Most points.
        cells: Most numbers; where points have many metrics, there are fewer of them.
        start: `next` of the page before.

    Raises:
        Refusal: As `series`.
    """
    numbers = series(connection, caller, run_id, kind, names)
    limit = min(limit, max(1, cells // (len(numbers) + 3)))
    after = None if start is None else start[:2]
    rows = metrics.blocks_of(connection, run_id, kind, first_step=first_step, last_step=last_step, after=after)
    points = Batch(array("q"), array("q"), array("q"), {name: array("d") for name in numbers})
    following: Position | None = None
    for columns in blocks.read(connection, rows, numbers):
        begin = 0
        if start is not None and columns.row.session == start[0]:
            begin = columns.index_of(start[1], start[2])
        chosen = _chosen(columns, begin, first_step, last_step)
        room = limit - len(points)
        if len(chosen) > room:
            following = columns.position(chosen[room])
            chosen = chosen[:room]
        _append(points, columns, numbers, chosen)
        if following is not None:
            break
    return Page(points, following)


def series(
    connection: metrics.Connection, caller: Caller, run_id: str, kind: str, names: Sequence[str]
) -> dict[str, int]:
    """Numbers of the columns of some metrics, or of all if none is named.

    Raises:
        Refusal: As `runs.records.check_run`; the run has no such type or metric (`not_found`); they are too many
            (`invalid_input`).
    """
    check_run(connection, caller, run_id)
    if metrics.type_of(connection, run_id, check_type(kind)) is None:
        raise not_found(f"the run has no metrics of the type {kind!r}")
    if len(names) > MAX_NAMES:
        raise invalid(f"a request reads at most {MAX_NAMES} metrics")
    found = metrics.series_of(connection, run_id, kind, list(dict.fromkeys(names)) if names else None)
    if len(found) > MAX_NAMES:
        raise invalid(f"the type has {len(found)} metrics", hint=f"name at most {MAX_NAMES} of them")
    missing = [name for name in names if name not in found]
    if missing:
        raise not_found(f"the run has no metric {missing[0][:80]!r} of the type {kind!r}")
    return {name: found[name].number for name in (names or found)}


def _chosen(columns: Columns, begin: int, first_step: int | None, last_step: int | None) -> Sequence[int]:
    """Indices of the points from `begin` on whose steps are in the range."""
    row = columns.row
    least = row.first_step if first_step is None else first_step
    most = row.last_step if last_step is None else last_step
    if least <= row.first_step and row.last_step <= most:
        return range(begin, len(columns))
    steps = columns.steps
    return [index for index in range(begin, len(columns)) if least <= steps[index] <= most]


def _append(points: Batch, columns: Columns, numbers: dict[str, int], chosen: Sequence[int]) -> None:
    pairs: list[tuple[array[Any], array[Any]]] = [
        (points.steps, columns.steps),
        (points.epochs, columns.epochs),
        (points.times_us, columns.times_us),
        *((points.values[name], columns.column(number)) for name, number in numbers.items()),
    ]
    for to, column in pairs:
        if isinstance(chosen, range):
            to += column[chosen.start : chosen.stop]
        else:
            to.extend(column[index] for index in chosen)

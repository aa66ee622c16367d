"""Batches that are repeated, late, reordered and sent at once, merged at any moment, against plain lists."""

from __future__ import annotations

import math
import struct
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from harness import Account, make_account
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from t9k.aistore.clock import new_id
from t9k.aistore.db import Database
from t9k.aistore.db.tables.runs import metric_blocks, metric_sessions
from t9k.aistore.runs import batches, buckets, compaction, points, records
from t9k.aistore.tree.placement import Placement
from t9k.protocol.metric_batch import NO_EPOCH, NOT_LOGGED, NOT_LOGGED_BITS, Batch, encode_batch

NAMES = ("loss", "acc", "λ")


def bits(value: float | None) -> int:
    """A value as it is stored; None is "not logged"."""
    found: int = NOT_LOGGED_BITS if value is None else struct.unpack("<Q", struct.pack("<d", value))[0]
    return found


VALUES = st.one_of(
    st.just(None),
    st.floats(width=64).filter(lambda value: bits(value) != NOT_LOGGED_BITS),
    st.sampled_from([math.inf, -math.inf, math.nan, 0.0, -0.0, 5e-324, 1.7e308]),
)
STEPS = st.one_of(st.integers(0, 60), st.sampled_from([-(2**63), 2**63 - 1, -5]))
POINT = st.tuples(
    STEPS,
    st.sampled_from([NO_EPOCH, 0, 1, 2**63 - 1]),
    st.integers(-(2**63), 2**63 - 1),
    st.dictionaries(st.sampled_from(NAMES), VALUES, min_size=1),
)
CONTENT = st.lists(POINT, min_size=1, max_size=6)
SESSIONS = ("first", "second", "third")

Point = tuple[int, int, int, dict[str, float | None]]


def encoded(content: list[Point]) -> bytes:
    names = list(dict.fromkeys(name for *_, logged in content for name in logged))
    values = {
        name: array("d", (NOT_LOGGED if (value := logged.get(name)) is None else value for *_, logged in content))
        for name in names
    }
    steps, epochs, times = (array("q", column) for column in list(zip(*content, strict=True))[:3])
    return encode_batch(Batch(steps, epochs, times, values))


class Metrics(RuleBasedStateMachine):
    """One run; `stored` has the batches by session and number, in the order of the sessions' first batches."""

    def __init__(self, database: Database, account: Account) -> None:
        super().__init__()
        self.database, self.caller = database, account.caller
        name = new_id()
        place = Placement(f"/{account.name}/default", name)
        self.run_id = database.write(
            lambda connection: records.create(connection, self.caller, name, place, records.Parts()).node_id
        )
        self.stored: dict[str, dict[int, list[Point]]] = {}

    def put(self, session: str, sequence: int, content: list[Point]) -> bool:
        data = encoded(content)
        return batches.put(self.database, self.caller, self.run_id, "train", session, sequence, data).result()

    @rule(session=st.sampled_from(SESSIONS), sequence=st.integers(0, 12), content=CONTENT)
    def put_one(self, session: str, sequence: int, content: list[Point]) -> None:
        there = self.stored.setdefault(session, {})
        assert self.put(session, sequence, content) == (sequence not in there)
        there.setdefault(sequence, content)

    @rule(
        session=st.sampled_from(SESSIONS), first=st.integers(0, 8), contents=st.lists(CONTENT, min_size=2, max_size=8)
    )
    def put_in_order(self, session: str, first: int, contents: list[list[Point]]) -> None:
        for sequence, content in enumerate(contents, first):
            self.put_one(session, sequence, content)

    @rule(
        sent=st.lists(st.tuples(st.sampled_from(SESSIONS), st.integers(0, 12), CONTENT), min_size=2, max_size=6),
        repeats=st.integers(1, 2),
    )
    def put_at_once(self, sent: list[tuple[str, int, list[Point]]], repeats: int) -> None:
        unique = {(session, sequence): content for session, sequence, content in sent}
        sends = [(*key, content) for key, content in unique.items()] * repeats
        with ThreadPoolExecutor(4) as pool:
            were_new = list(pool.map(lambda send: self.put(*send), sends))
        for session, sequence in unique:
            was_there = sequence in self.stored.get(session, {})
            new = [is_new for send, is_new in zip(sends, were_new, strict=True) if send[:2] == (session, sequence)]
            assert sum(new) == (0 if was_there else 1)
            self.stored.setdefault(session, {}).setdefault(sequence, unique[session, sequence])
        query = sa.select(metric_sessions).where(metric_sessions.c.node_id == self.run_id)
        rows = self.database.read(lambda connection: list(connection.execute(query.order_by("number"))))
        assert [row.number for row in rows] == list(range(len(rows)))
        self.stored = {row.session: self.stored[row.session] for row in rows}

    @rule()
    def compact(self) -> None:
        compaction.compact(self.database)
        query = sa.select(metric_blocks).where(metric_blocks.c.node_id == self.run_id)
        rows = self.database.read(lambda connection: list(connection.execute(query)))
        for session in {row.session for row in rows}:
            blocks = sorted((row for row in rows if row.session == session), key=lambda row: row.first_sequence)
            assert not compaction.plan([row for row in blocks if row.level < 9])

    def expected(self) -> list[Point]:
        return [
            point for batch_of in self.stored.values() for sequence in sorted(batch_of) for point in batch_of[sequence]
        ]

    def series(self) -> dict[str, list[tuple[int, float]]]:
        """Steps and values of each metric that was logged."""
        found: dict[str, list[tuple[int, float]]] = {}
        for step, _, _, logged in self.expected():
            for name, value in logged.items():
                if value is not None:
                    found.setdefault(name, []).append((step, value))
        return found

    @precondition(lambda self: self.stored)
    @rule(
        limit=st.integers(1, 50),
        bounds=st.one_of(st.just((None, None)), st.tuples(st.integers(-10, 60), st.integers(-10, 70))),
        between=st.booleans(),
    )
    def read_pages(self, limit: int, bounds: tuple[int | None, int | None], between: bool) -> None:
        names = sorted(self.series())
        first, last = bounds
        found: list[tuple[Any, ...]] = []
        start = None
        while True:
            at = start
            page = self.database.read(
                lambda connection: points.page(
                    connection,
                    self.caller,
                    self.run_id,
                    "train",
                    names,
                    first_step=first,
                    last_step=last,
                    limit=limit,
                    start=at,  # noqa: B023 (called at once)
                )
            )
            assert len(page.points) == limit or page.next is None
            columns = [map(bits, page.points.values[name]) for name in names]
            found += zip(page.points.steps, page.points.epochs, page.points.times_us, *columns, strict=True)
            start = page.next
            if start is None:
                break
            if between:
                compaction.compact(self.database)
        assert found == [
            (step, epoch, time, *(bits(logged.get(name)) for name in names))
            for step, epoch, time, logged in self.expected()
            if (first is None or step >= first) and (last is None or step <= last)
        ]

    @invariant()
    def overview_is_that_of_all_points(self) -> None:
        found = self.database.read(lambda connection: points.overview(connection, self.caller, self.run_id))
        expected = self.expected()
        assert bool(found) == bool(expected)
        if not expected:
            return
        (kind, rows), steps = found[0], [point[0] for point in expected]
        assert (kind.points, kind.first_step, kind.last_step) == (len(steps), min(steps), max(steps))
        assert {row.name for row in rows} == set(self.series())
        for row in rows:
            logged = self.series()[row.name]
            numbers = [value for _, value in logged if value == value]
            assert (row.logged, row.last_step) == (len(logged), logged[-1][0])
            assert repr(math.nan if row.last is None else row.last + 0.0) == repr(logged[-1][1] + 0.0)
            assert (row.min, row.max) == (min(numbers, default=None), max(numbers, default=None))

    @precondition(lambda self: self.stored)
    @rule(
        width=st.integers(1, 40),
        bounds=st.one_of(st.just((None, None)), st.tuples(st.integers(-9, 30), st.integers(30, 70))),
    )
    def read_buckets(self, width: int, bounds: tuple[int | None, int | None]) -> None:
        first, last = bounds
        scale, courses = self.database.read(
            lambda connection: buckets.course(
                connection, self.caller, self.run_id, "train", [], first_step=first, last_step=last, width=width
            )
        )
        series = self.series()
        for course in courses:
            inside = [pair for pair in series[course.name] if scale.first <= pair[0] <= scale.last]
            by_bucket: dict[int, list[float]] = {}
            for step, value in inside:
                by_bucket.setdefault((step - scale.first) * scale.width // (scale.last - scale.first + 1), []).append(
                    value
                )
            assert set(course.buckets) == set(by_bucket)
            for bucket, values in by_bucket.items():
                found, numbers = course.buckets[bucket], [value for value in values if value == value]
                assert (found.logged, bits(found.last)) == (len(values), bits(values[-1]))
                assert (found.min, found.max) == (min(numbers, default=None), max(numbers, default=None))


@pytest.mark.usefixtures("services")
def test_metrics_are_what_plain_lists_say(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FAN_IN", 3)
    monkeypatch.setattr(compaction, "FULL_POINTS", 24)
    account = make_account(database, "ada")
    limits = settings(
        max_examples=25 if database.is_sqlite else 15,
        stateful_step_count=25,
        deadline=None,
        phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking would take minutes
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(lambda: Metrics(database, account), settings=limits)  # type: ignore[no-untyped-call]

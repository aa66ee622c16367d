"""Requests that share a transaction: all writes durable, and none told of another's failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from t9k.aistore.db import Database
from t9k.aistore.db.database import GROUPS_AT_ONCE
from t9k.aistore.db.tables.accounts import groups
from t9k.aistore.db.together import ENOUGH, MAX_GROUP, Together
from t9k.aistore.errors import Refusal, not_found


def add(name: str) -> Callable[[sa.Connection], str]:
    def work(connection: sa.Connection) -> str:
        connection.execute(sa.insert(groups).values(id=name, name=name, created_us=1))
        return name

    return work


def fail(connection: sa.Connection) -> str:
    connection.execute(sa.insert(groups).values(id="failed", name="failed", created_us=1))
    raise ValueError("mine")


def names(database: Database) -> set[str]:
    return set(database.read(lambda connection: connection.execute(sa.select(groups.c.name)).scalars()))


def test_writes_of_many_threads_are_all_there(database: Database) -> None:
    wanted = {f"g{number}" for number in range(200)}
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda name: database.write_to_run(name, add(name)), wanted)) == wanted
    assert names(database) == wanted


def test_failure_reaches_only_whose_it_is(database: Database) -> None:
    def one(number: int) -> str:
        try:
            return database.write_to_run(str(number), fail if number % 5 == 0 else add(f"g{number}"))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(60)))
    assert answers == ["mine" if number % 5 == 0 else f"g{number}" for number in range(60)]
    assert names(database) == {f"g{number}" for number in range(60) if number % 5}


def test_what_waits_shares_a_transaction_and_a_call() -> None:
    is_writing, is_open = threading.Event(), threading.Event()
    sizes: list[int] = []
    calls: list[list[int]] = []

    def write(keys: Sequence[str], work: Callable[[Any], Any]) -> Any:
        is_writing.set()
        is_open.wait(60)
        calls.clear()
        results = work(None)
        sizes.append(len(results))
        assert keys == sorted({f"k{number % 7}" for items in calls for number in items})
        assert len(calls) == len({number % 2 for items in calls for number in items})
        return results

    def even(_: Any, items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        return [-item for item in items]

    def odd(_: Any, items: Sequence[int]) -> list[int]:
        calls.append(list(items))
        return list(items)

    together = Together(write, 1)
    answers = [together.submit("k0", even, 0)]
    is_writing.wait(60)
    numbers = range(1, MAX_GROUP + 20)
    answers += [together.submit(f"k{item % 7}", odd if item % 2 else even, item) for item in numbers]
    is_open.set()
    assert [answer.result() for answer in answers] == [item if item % 2 else -item for item in (0, *numbers)]
    together.close()
    assert sizes == [1, MAX_GROUP, 19]


def test_transaction_beside_another_begins_only_for_enough() -> None:
    is_open = threading.Event()
    begun: list[int] = []
    entered = threading.Semaphore(0)

    def run(_: Sequence[str], work: Callable[[Any], Any]) -> Any:
        results = work(None)
        begun.append(len(results))
        entered.release()
        is_open.wait(60)
        return results

    def same(_: Any, items: Sequence[int]) -> list[int]:
        return list(items)

    together = Together(run, 2)
    answers = [together.submit("k", same, 0)]
    entered.acquire(timeout=60)
    answers += [together.submit("k", same, item) for item in range(1, ENOUGH + 1)]
    assert not entered.acquire(timeout=0.2)  # they wait for the first
    answers += [together.submit("k", same, ENOUGH + 1)]
    assert entered.acquire(timeout=60)  # while the first is under way
    assert begun == [1, ENOUGH + 1]
    is_open.set()
    assert [answer.result(60) for answer in answers] == list(range(ENOUGH + 2))
    together.close()


def test_query_together_sees_what_was_committed_before_and_is_one_call_for_many(database: Database) -> None:
    calls = []
    is_open = threading.Event()
    is_open.set()

    def found(connection: sa.Connection, items: Sequence[str]) -> list[bool | Exception]:
        calls.append(len(items))
        is_open.wait(60)
        there = set(connection.execute(sa.select(groups.c.name)).scalars())
        return [ValueError(item) if item == "bad" else item in there for item in items]

    def seen(number: int) -> bool:
        database.write_to_run(f"g{number}", add(f"g{number}"))
        return database.query_together(found, f"g{number}").result()

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(seen, range(40)))
    calls.clear()
    is_open.clear()
    answers = [database.query_together(found, name) for name in ["g1", "bad", "none"] * 100]
    is_open.set()
    results = [answer.exception() or answer.result() for answer in answers]
    assert [result if isinstance(result, bool) else str(result) for result in results] == [True, "bad", False] * 100
    assert sum(calls) == 300
    assert len(calls) <= GROUPS_AT_ONCE + -(-300 // MAX_GROUP)


def test_reads_together_share_a_snapshot_and_no_refusal(database: Database) -> None:
    is_open, is_held = threading.Event(), threading.Event()

    def hold(_: sa.Connection) -> None:
        is_held.set()
        is_open.wait(60)

    def refuse(_: sa.Connection) -> str:
        raise not_found("mine")

    snapshots = []

    def read(connection: sa.Connection) -> set[str]:
        snapshots.append(connection)
        return set(connection.execute(sa.select(groups.c.name)).scalars())

    held = database.read_together(hold)
    assert is_held.wait(60)
    database.write(add("committed"))
    first, refused, second = (database.read_together(work) for work in (read, refuse, read))
    is_open.set()
    assert held.result(60) is None
    assert first.result(60) == second.result(60) == {"committed"}
    assert snapshots[0] is snapshots[1]
    with pytest.raises(Refusal, match="mine"):
        refused.result(60)


def test_refusal_of_one_is_told_to_it_alone_and_runs_nobody_again(database: Database) -> None:
    calls = []

    def work(connection: sa.Connection, items: Sequence[int]) -> list[int | Exception]:
        calls.append(len(items))
        return [ValueError("mine") if item % 5 == 0 else add(f"g{item}")(connection) and item for item in items]

    answers = [database.write_to_run_together(str(item), work, item) for item in range(60)]
    for item, answer in enumerate(answers):
        if item % 5 == 0:
            with pytest.raises(ValueError, match="mine"):
                answer.result()
        else:
            assert answer.result() == item
    assert names(database) == {f"g{item}" for item in range(60) if item % 5}
    assert sum(calls) == 60


def test_what_its_caller_gave_up_is_not_written(database: Database) -> None:
    is_writing, is_open = threading.Event(), threading.Event()

    def wait(connection: sa.Connection) -> bool:
        is_writing.set()
        return is_open.wait(60)

    with ThreadPoolExecutor(GROUPS_AT_ONCE) as pool:
        first = [pool.submit(database.write_to_run, f"w{number}", wait) for number in range(GROUPS_AT_ONCE)]
        is_writing.wait(60)
        work = lambda connection, items: [add(item)(connection) for item in items]  # noqa: E731
        given_up, kept = (database.write_to_run_together(name, work, name) for name in ("given-up", "kept"))
        assert given_up.cancel()
        is_open.set()
        assert all(answer.result() for answer in first)
    assert kept.result() == "kept"
    assert names(database) == {"kept"}


def test_close_writes_what_waits(database: Database) -> None:
    work = lambda connection, items: [add(item)(connection) for item in items]  # noqa: E731
    answers = [database.write_to_run_together(name, work, name) for name in ("a", "b", "c")]
    database.close()
    assert all(answer.done() for answer in answers)
    assert names(database) == {"a", "b", "c"}
    assert database.write_to_run("d", add("d")) == "d"  # as the pool of connections, it opens again
    database.close()


def test_transaction_that_cannot_begin_is_tried_once_for_all_who_wait() -> None:
    is_trying, may_fail, tries = threading.Event(), threading.Event(), list[int]()

    def run(keys: Sequence[str], work: object) -> None:
        tries.append(len(keys))
        is_trying.set()
        may_fail.wait(60)
        raise ConnectionError("no database")

    together = Together(run, 1)
    answers = [together.submit("0", list, 0)]
    is_trying.wait(60)
    answers += [together.submit(str(number), list, number) for number in range(1, 9)]
    may_fail.set()
    for answer in answers:
        with pytest.raises(ConnectionError, match="no database"):
            answer.result(60)
    assert tries == [1, 8]
    together.close()

"""Small writes that share a transaction: all durable, and none told of another's failure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from t9k.aistore.db import Database
from t9k.aistore.db.group_commit import MAX_GROUP, GroupCommit
from t9k.aistore.db.tables.accounts import groups


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

    together = GroupCommit(write, 1)
    answers = [together.submit("k0", even, 0)]
    is_writing.wait(60)
    numbers = range(1, MAX_GROUP + 20)
    answers += [together.submit(f"k{item % 7}", odd if item % 2 else even, item) for item in numbers]
    is_open.set()
    assert [answer.result() for answer in answers] == [item if item % 2 else -item for item in (0, *numbers)]
    together.close()
    assert sizes == [1, MAX_GROUP, 19]


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

    groups_at_once = 4  # no more are open at once on either database
    with ThreadPoolExecutor(groups_at_once) as pool:
        first = [pool.submit(database.write_to_run, f"w{number}", wait) for number in range(groups_at_once)]
        is_writing.wait(60)
        work = lambda connection, items: [add(item)(connection) for item in items]  # noqa: E731
        given_up, kept = (database.write_to_run_together(name, work, name) for name in ("given-up", "kept"))
        was_cancelled = given_up.cancel()
        is_open.set()
        assert all(answer.result() for answer in first)
    assert kept.result() == "kept"
    assert names(database) == {"kept"} | ({"given-up"} if not was_cancelled else set())


def test_close_writes_what_waits(database: Database) -> None:
    work = lambda connection, items: [add(item)(connection) for item in items]  # noqa: E731
    answers = [database.write_to_run_together(name, work, name) for name in ("a", "b", "c")]
    database.close()
    assert all(answer.done() for answer in answers)
    assert names(database) == {"a", "b", "c"}
    assert database.write_to_run("d", add("d")) == "d"  # as the pool of connections, it opens again
    database.close()

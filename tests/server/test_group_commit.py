"""Small writes that share a transaction: all durable, and none told of another's failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

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


def test_what_waits_shares_a_transaction() -> None:
    is_writing, is_open, sizes = threading.Event(), threading.Event(), []

    def write(keys: Sequence[str], work: Callable[[Any], Any]) -> Any:
        is_writing.set()
        is_open.wait(60)
        results = work(None)
        sizes.append(len(results))
        assert keys == sorted({f"k{number % 7}" for number in results})
        return results

    together = GroupCommit(write, 1)
    with ThreadPoolExecutor(MAX_GROUP + 20) as pool:
        answers = [pool.submit(together.run, "k0", lambda _: 0)]
        is_writing.wait(60)
        numbers = range(1, MAX_GROUP + 20)
        answers += [pool.submit(together.run, f"k{number % 7}", lambda _, number=number: number) for number in numbers]
        while len(together._waiting) < len(numbers):
            time.sleep(0.001)
        is_open.set()
        assert [answer.result() for answer in answers] == [0, *numbers]
    assert sizes == [1, MAX_GROUP, 19]

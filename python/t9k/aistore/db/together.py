"""Small requests of many callers to the database in one transaction, because each costs a way there and a sync."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection

Item = TypeVar("Item")
T = TypeVar("T")
Work = Callable[[Connection, Sequence[Item]], Sequence[T | Exception]]
"""Does what several callers asked for, and answers as many results in their order; an exception is one caller's."""

MAX_GROUP = 64
"""Callers in one transaction; more would make others wait for the write lock."""

ENOUGH = 16
"""Callers that must wait before another transaction begins beside one that is under way: small ones cost each of
their callers more (`docs/adr/0009-metrics-in-columns.md`)."""


@dataclass(frozen=True, eq=False)
class _Entry(Generic[Item, T]):
    key: str
    work: Work[Item, T]
    item: Item
    answer: Future[T]


class Together:
    """Does together what came while the transactions before were under way. Thread-safe.

    Its own threads do so, as many as transactions may be open, and callers wait for a future: a thread for each caller
    that waits would cost more than what it waits for, of which there are hundreds in a second. If a transaction of
    several fails, each runs in one of its own, so nobody else is told of it; if none can begin, all are.
    """

    def __init__(self, run: Callable[[Sequence[str], Callable[[Connection], Any]], Any], at_once: int) -> None:
        """Takes what runs a function in one transaction, with the keys of all that is done in it, sorted."""
        self._run = run
        self._at_once = at_once
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: deque[_Entry[Any, Any]] = deque()
        self._busy = 0
        self._lock = threading.Lock()

    def submit(self, key: str, work: Work[Item, T], item: Item) -> Future[T]:
        """Has `work` do this item, which concerns what `key` names; its result is there when the transaction has ended.

        `work` is called once for all items that wait for it just then. An exception that it answers for an item is
        raised for this item only; what it raises makes each item of the transaction run alone.
        """
        entry = _Entry(key, work, item, Future[T]())
        with self._lock:
            self._waiting.append(entry)
            if self._busy < self._at_once and self._are_enough(self._busy):
                if self._threads is None:
                    self._threads = ThreadPoolExecutor(self._at_once, "together")
                self._threads.submit(self._run_waiting)
                self._busy += 1
        return entry.answer

    def close(self) -> None:
        """Returns when all that waits is done, and ends the threads. What comes later begins new ones."""
        with self._lock:
            threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown()

    def _are_enough(self, others: int) -> bool:
        """Whether as many wait as take a transaction beside others."""
        return len(self._waiting) > others * ENOUGH

    def _run_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._are_enough(self._busy - 1):
                    self._busy -= 1
                    return
                group = [self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))]
            if group := [entry for entry in group if entry.answer.set_running_or_notify_cancel()]:
                self._run_group(group)

    def _run_group(self, group: list[_Entry[Any, Any]]) -> None:
        has_begun = False

        def work(connection: Connection) -> list[tuple[_Entry[Any, Any], Any]]:
            nonlocal has_begun
            has_begun = True
            return _results(connection, group)

        try:
            results = self._run(sorted({entry.key for entry in group}), work)
        except BaseException as error:  # a transaction of several fails for one of them, or there is no database
            if len(group) == 1 or not has_begun:
                for entry in group:
                    entry.answer.set_exception(error)
                return
            for entry in group:
                self._run_group([entry])
            return
        for entry, result in results:
            if isinstance(result, Exception):
                entry.answer.set_exception(result)
            else:
                entry.answer.set_result(result)


def _results(connection: Connection, group: Sequence[_Entry[Any, Any]]) -> list[tuple[_Entry[Any, Any], Any]]:
    by_work: dict[Work[Any, Any], list[_Entry[Any, Any]]] = {}
    for entry in group:
        by_work.setdefault(entry.work, []).append(entry)
    return [
        pair
        for work, entries in by_work.items()
        for pair in zip(entries, work(connection, [entry.item for entry in entries]), strict=True)
    ]

"""Small writes of many threads in one transaction, because a transaction costs a sync of the disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection

T = TypeVar("T")
Work = Callable[[Connection], T]

MAX_GROUP = 64
"""Writes in one transaction; more would make others wait for the write lock."""


class _Entry(Generic[T]):
    def __init__(self, work: Work[T]) -> None:
        self.work = work
        self.is_done = False
        self.result: Any = None
        self.error: BaseException | None = None

    def answer(self) -> T:
        if self.error is not None:
            raise self.error
        result: T = self.result
        return result


class GroupCommit:
    """Commits together what came while the transaction before was under way. Thread-safe.

    The first thread that finds nobody committing does it for all that wait. If one of them fails, each runs in a
    transaction of its own, so nobody else is told of it.
    """

    def __init__(self, write: Callable[[Work[Any]], Any]) -> None:
        """Takes what runs a function in one transaction, `Database.write`."""
        self._write = write
        self._leading = threading.Lock()
        self._waiting: deque[_Entry[Any]] = deque()

    def run(self, work: Work[T]) -> T:
        """Runs `work` in a transaction, durable when this returns."""
        entry = _Entry(work)
        self._waiting.append(entry)
        while not entry.is_done:
            with self._leading:
                if not entry.is_done:
                    self._commit([self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))])
        return entry.answer()

    def _commit(self, group: list[_Entry[Any]]) -> None:
        try:
            results = self._write(lambda connection: [entry.work(connection) for entry in group])
            for entry, result in zip(group, results, strict=True):
                entry.result = result
        except BaseException as error:  # a transaction of several fails for one of them
            if len(group) == 1:
                group[0].error = error
            else:
                for entry in group:
                    self._commit([entry])
        for entry in group:
            entry.is_done = True

"""Small writes of many threads in one transaction, because a transaction costs a sync of the disk."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Connection

T = TypeVar("T")
Work = Callable[[Connection], T]

MAX_GROUP = 64
"""Writes in one transaction; more would make others wait for the write lock."""


class _Entry(Generic[T]):
    def __init__(self, key: str, work: Work[T]) -> None:
        self.key = key
        self.work = work
        self.done = threading.Event()
        self.result: Any = None
        self.error: BaseException | None = None

    def answer(self) -> T:
        if self.error is not None:
            raise self.error
        result: T = self.result
        return result


class GroupCommit:
    """Commits together what came while the transactions before were under way. Thread-safe.

    A thread that finds fewer than `at_once` transactions under way begins one for all that wait. If one of them fails,
    each runs in a transaction of its own, so nobody else is told of it.
    """

    def __init__(self, write: Callable[[Sequence[str], Work[Any]], Any], at_once: int) -> None:
        """Takes what runs a function in one transaction, with the keys of all that is written in it, sorted."""
        self._write = write
        self._turns = threading.Semaphore(at_once)
        self._waiting: deque[_Entry[Any]] = deque()
        self._choosing = threading.Lock()

    def run(self, key: str, work: Work[T]) -> T:
        """Runs `work`, which writes to what `key` names, in a transaction, durable when this returns."""
        entry = _Entry(key, work)
        self._waiting.append(entry)
        while not entry.done.is_set():
            with self._turns:
                group = [] if entry.done.is_set() else self._next()
                if group:
                    self._commit(group)
            if not group:
                entry.done.wait()  # another thread has it
        return entry.answer()

    def _next(self) -> list[_Entry[Any]]:
        with self._choosing:
            return [self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))]

    def _commit(self, group: list[_Entry[Any]]) -> None:
        try:
            keys = sorted({entry.key for entry in group})
            results = self._write(keys, lambda connection: [entry.work(connection) for entry in group])
            for entry, result in zip(group, results, strict=True):
                entry.result = result
        except BaseException as error:  # a transaction of several fails for one of them
            if len(group) > 1:
                for entry in group:
                    self._commit([entry])
                return
            group[0].error = error
        for entry in group:
            entry.done.set()

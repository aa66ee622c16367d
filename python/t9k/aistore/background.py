"""Work that no request waits for: hashing new objects, expiring the trash, finding crashed runs.

Each process runs the jobs on one thread of its own; a job claims what it works on in the database, so that several
processes share it. A job that fails is logged and runs again at its next turn.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("aistore.background")


@dataclass
class Job:
    """A function that is called every `every_s` seconds, and soon after `Background.wake` with its name."""

    name: str
    every_s: float
    run: Callable[[], object]
    due: float = 0.0


class Background:
    """Runs jobs until it is stopped. Thread-safe."""

    def __init__(self) -> None:
        """Begins nothing: see `start`."""
        self._jobs: list[Job] = []
        self._condition = threading.Condition()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def add(self, job: Job) -> None:
        """Adds a job; it first runs when the thread starts."""
        with self._condition:
            self._jobs.append(job)
            self._condition.notify()

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="background", daemon=True)
        self._thread.start()

    def wake(self, name: str) -> None:
        """Lets a job run now rather than at its next turn."""
        with self._condition:
            for job in self._jobs:
                if job.name == name:
                    job.due = 0.0
            self._condition.notify()

    @property
    def is_stopping(self) -> bool:
        """Whether a job should return early."""
        return self._is_stopping

    def stop(self, timeout_s: float = 10.0) -> None:
        """Asks the running job to end and waits for it, at most `timeout_s` seconds."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while (job := self._next()) is not None:
            try:
                job.run()
            except Exception:  # the thread's edge: one job's failure must not end the others
                log.exception("job %s failed", job.name)

    def _next(self) -> Job | None:
        with self._condition:
            while not self._is_stopping:
                now = time.monotonic()
                job = min(self._jobs, key=lambda job: job.due, default=None)
                if job is not None and job.due <= now:
                    job.due = now + job.every_s
                    return job
                self._condition.wait(None if job is None else job.due - now)
            return None

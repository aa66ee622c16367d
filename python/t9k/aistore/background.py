"""Work that no request waits for: hashing new objects, collecting garbage, expiring the trash, finding crashed runs.

Each process runs each job on a thread of its own, so that a long one holds up no other. A job claims what it works on
in the database, so that several processes share it. A job that fails is logged and runs again at its next turn.
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
        self._is_started = False
        self._is_stopping = False
        self._threads: list[threading.Thread] = []

    def add(self, job: Job) -> None:
        """Adds a job; it first runs at once, or when the jobs are started."""
        with self._condition:
            self._jobs.append(job)
            if self._is_started:
                self._start(job)

    def start(self) -> None:
        """Starts the jobs."""
        with self._condition:
            self._is_started = True
            for job in self._jobs:
                self._start(job)

    def wake(self, name: str) -> None:
        """Lets a job run now rather than at its next turn."""
        with self._condition:
            for job in self._jobs:
                if job.name == name:
                    job.due = 0.0
            self._condition.notify_all()

    @property
    def is_stopping(self) -> bool:
        """Whether a job should return early."""
        return self._is_stopping

    def stop(self, timeout_s: float = 10.0) -> None:
        """Asks the running jobs to end and waits for them, at most `timeout_s` seconds."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _start(self, job: Job) -> None:
        thread = threading.Thread(target=self._run, args=(job,), name=f"job-{job.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, job: Job) -> None:
        while self._wait(job):
            try:
                job.run()
            except Exception:  # the thread's edge: a failure must not end the job for good
                log.exception("job %s failed", job.name)

    def _wait(self, job: Job) -> bool:
        """Waits for a job's turn; whether there is one."""
        with self._condition:
            while not self._is_stopping and (left := job.due - time.monotonic()) > 0:
                self._condition.wait(left)
            job.due = time.monotonic() + job.every_s
            return not self._is_stopping

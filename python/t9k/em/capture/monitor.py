"""The thread that beats for a run and samples its machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

from t9k.em.capture import heartbeat
from t9k.em.capture.snapshot import DELAY_S


class Monitor:
    """A daemon thread from construction to `stop`; it raises nothing."""

    def __init__(
        self,
        folder: str,
        log: Callable[[Mapping[str, float], int], None] | None,
        save_owed: Callable[[], None],
    ) -> None:
        """Starts beating.

        Args:
            folder: The run's directory.
            log: Called with each sample and its number; None for a heartbeat
                alone.
            save_owed: Called with each beat, to write what could not be
                written before.
        """
        self._folder = folder
        self._log = log
        self._save_owed = save_owed
        self._pid = os.getpid()
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="t9k-monitor", daemon=True).start()

    def stop(self) -> None:
        """Ends the thread within its current step; it does not wait for it."""
        if os.getpid() == self._pid:
            self._stopped.set()

    def _run(self) -> None:
        if self._stopped.wait(DELAY_S):
            return
        # A thread's edge: a full disk or a strange /proc must not reach the script.
        try:
            from t9k.em.capture.system import SystemSampler

            sampler = SystemSampler() if self._log is not None else None
        except Exception:
            sampler = None
        step = 0
        while not self._stopped.wait(heartbeat.BEAT_S):
            try:
                heartbeat.beat(self._folder)
                self._save_owed()
                if sampler is not None and self._log is not None:
                    self._log(sampler.sample(), step)
                    step += 1
            except Exception:
                continue

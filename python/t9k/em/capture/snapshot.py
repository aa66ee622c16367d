"""Platform and git, collected beside the script and written once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

DELAY_S = 0.05
"""Collecting begins this much later: `create_run` returns before another thread wants the interpreter."""

WAIT_S = 2.0
"""How long the end of a run waits for a collection that is still under way."""


class Snapshot:
    """One collection in a daemon thread; it raises nothing, anywhere."""

    def __init__(self, save: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Starts collecting.

        Args:
            save: Called from the thread with ``platform`` or ``git`` and its
                contents. What it raises is dropped: a record that cannot be
                written must not end the training.
        """
        self._save = save
        self._pid = os.getpid()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._collect, name="t9k-capture", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads, or the interpreter is about to end
            self._pid = -1

    def wait(self, timeout_s: float = WAIT_S) -> None:
        """Waits until all is written, or the time is over."""
        if os.getpid() == self._pid and threading.current_thread() is not self._thread:
            self._hurry.set()
            self._thread.join(timeout_s)

    def _collect(self) -> None:
        self._hurry.wait(DELAY_S)
        # A thread's edge: no failure of a collector may reach the script.
        for name, read in (("platform", _read_platform), ("git", _read_git)):
            try:
                self._save(name, read())
            except Exception:
                continue


def _read_platform() -> dict[str, Any]:
    from t9k.em.capture.platform import read_platform

    return read_platform()


def _read_git() -> dict[str, Any]:
    from t9k.em.capture.git import read_git

    script = getattr(sys.modules.get("__main__"), "__file__", None)
    folders = [os.path.dirname(os.path.abspath(script))] if script else []
    for folder in [*folders, os.getcwd()]:
        if found := read_git(folder):
            return found
    return {}

"""This process's number without a system call, for what runs at each step of a training."""

from __future__ import annotations

import os

_pid = os.getpid()


def current_pid() -> int:
    """Returns what ``os.getpid()`` does, also in a forked child."""
    return _pid


def _update() -> None:
    global _pid
    _pid = os.getpid()


os.register_at_fork(after_in_child=_update)

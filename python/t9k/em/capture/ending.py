"""How a process ends, told to its runs: an uncaught exception, SIGTERM, or an exit code.

Installed with the first run of a process and only where nobody else has
decided: a signal handler of the script stays, and the exception hook before
ours is called first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from t9k.em.capture import exit_code

Fail = Callable[[str], None]

_pid = -1
_fails: dict[int, Fail] = {}
_installed = threading.Lock()


def watch(key: int, fail: Fail) -> None:
    """Calls ``fail`` with the reason if this process ends badly before `unwatch`.

    Args:
        key: Names the registration.
        fail: Marks a run; what it raises is dropped.
    """
    global _pid
    with _installed:
        if _pid != os.getpid():
            _fails.clear()  # a fork's copies
            if _pid == -1:
                _install()
            _pid = os.getpid()
        _fails[key] = fail


def unwatch(key: int) -> None:
    """Forgets a registration, if there is one."""
    _fails.pop(key, None)


def exit_reason(code: object) -> str:
    """Returns what a run says of an exit code other than None and 0."""
    return f"exited with code {code}" if isinstance(code, int) else f"exited: {code}"


def _on_exit(code: object) -> None:
    if code is not None and code != 0:
        _tell(exit_reason(code))


def _install() -> None:
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        from traceback import format_exception

        _tell("".join(format_exception(kind, error, trace)))

    sys.excepthook = hook
    exit_code.listen(_on_exit)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)
        os.register_at_fork(after_in_child=_forget_sigterm)


def _on_sigterm(number: int, frame: FrameType | None) -> None:
    _tell("stopped by SIGTERM")
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _forget_sigterm() -> None:
    # A worker in a C call would not get to a Python handler, and could not be terminated.
    if signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _tell(reason: str) -> None:
    if os.getpid() != _pid:
        return
    for fail in list(_fails.values()):
        try:
            fail(reason)
        except Exception:  # the process ends; the other runs must still hear of it
            continue

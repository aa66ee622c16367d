"""How a process ends, told to its runs: an uncaught exception, SIGTERM, an exit code, or just the end.

Installed with the first run of a process and only where nobody else has
decided: a signal handler of the script stays, and the exception hook before
ours is called first.

A worker of `multiprocessing` ends otherwise: `_bootstrap` catches all
exceptions. Before Python 3.13 a forked one calls nothing that `atexit` knows,
but its own finalizers, while the exception is on its way. From then on
finalizers are called by `atexit`, when nobody knows of the exception any more;
but `_bootstrap` reads the code of an exit, and has `traceback` print an error.
"""

from __future__ import annotations

import atexit
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType, TracebackType
from typing import Any

from t9k.em.capture import exit_code

Fail = Callable[[str], None]

_pid = -1
_fails: dict[int, Fail] = {}
_finishes: dict[int, Callable[[], object]] = {}
_reason = ""
_installed = threading.Lock()


def watch(key: int, fail: Fail, finish: Callable[[], object]) -> None:
    """Tells how this process ends, if that is before `unwatch`.

    Args:
        key: Names the registration.
        fail: Called with the reason of a bad end; what it raises is dropped.
        finish: Called at every end, after ``fail``.
    """
    global _pid, _reason
    with _installed:
        if _pid != os.getpid():
            _fails.clear()  # a fork's copies
            _finishes.clear()
            _reason = ""
            if _pid == -1:
                _install()
            _pid = os.getpid()
            atexit.register(_on_end)
            _watch_worker()
        _fails[key], _finishes[key] = fail, finish


def unwatch(key: int) -> None:
    """Forgets a registration, if there is one."""
    _fails.pop(key, None)
    _finishes.pop(key, None)


def exit_reason(code: object) -> str:
    """Returns what a run says of an exit code other than None and 0."""
    return f"exited with code {code}" if isinstance(code, int) else f"exited: {code}"


def _on_exit(code: object) -> None:
    if code is not None and code != 0:
        _note(exit_reason(code))


def _note(reason: str) -> None:
    """Keeps why the process ends until it does: other threads still log, and the last words are still to be printed.

    The first word counts: a spawned worker of `multiprocessing` exits with 1 after its error.
    """
    global _reason
    if os.getpid() == _pid and not _reason:
        _reason = reason


def _on_end() -> None:
    if _reason:
        _tell(_reason)
    for finish in reversed(list(_finishes.values())):
        finish()


def _install() -> None:
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        if hasattr(sys, "ps1"):  # at a prompt, which goes on
            return
        from traceback import format_exception

        _note("".join(format_exception(kind, error, trace)))

    sys.excepthook = hook
    exit_code.listen(_on_exit)
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _on_sigterm)
        os.register_at_fork(after_in_child=_forget_sigterm)


def _watch_worker() -> None:
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return
    if sys.version_info >= (3, 13):
        exit_code.ends.append(process.BaseProcess._bootstrap.__code__)
        _listen_to_traceback(process.BaseProcess._bootstrap.__code__)
        return
    from multiprocessing.util import Finalize

    # A fork inherits what its parent was about to handle.
    Finalize(None, _on_worker_end, args=(sys.exc_info()[1],), exitpriority=0)


def _listen_to_traceback(bootstrap: CodeType) -> None:
    import traceback

    original = traceback.print_exc

    @functools.wraps(original)
    def print_exc(*arguments: Any, **options: Any) -> None:
        if sys._getframe(1).f_code is bootstrap:
            _note(traceback.format_exc())
        original(*arguments, **options)

    traceback.print_exc = print_exc


def _on_worker_end(inherited: BaseException | None) -> None:
    error = sys.exc_info()[1]
    if isinstance(error, SystemExit):
        _on_exit(error.code)
    elif error is not None and error is not inherited:
        from traceback import format_exception

        _note("".join(format_exception(error)))
    _on_end()


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

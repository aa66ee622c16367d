"""How a process ends, told to its runs: an uncaught exception, SIGTERM, or an exit code.

The hooks are installed with the first run of a process and only where nobody
else has decided: a signal handler of the script stays, and the exception hook
before ours is called first. ``sys.exit`` is wrapped when this module is
imported, because ``sys.exit(main())`` looks it up before ``main`` makes a run.
The interpreter tells nobody why it exits, not even ``atexit``; an exit that is
raised by name, ``raise SystemExit(1)``, is therefore not heard of.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn

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


_CODE: Any = vars(SystemExit)["code"]


class _Exit(SystemExit):
    """What ``sys.exit`` raises: it knows when the interpreter itself reads its code, which nothing has caught then."""

    @property
    def code(self) -> Any:
        code = _CODE.__get__(self)
        try:
            sys._getframe(1)
        except ValueError:  # no Python code is running any more
            with contextlib.suppress(Exception):  # of a code that cannot be compared or written
                if code is None or code == 0:
                    return code
                _tell(f"exited with code {code}" if isinstance(code, int) else f"exited: {code}")
        return code

    @code.setter
    def code(self, value: Any) -> None:
        _CODE.__set__(self, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return SystemExit, self.args


_Exit.__name__ = _Exit.__qualname__ = "SystemExit"


def _wrap_exit() -> None:
    original = sys.exit

    @functools.wraps(original)
    def exit(status: Any = None, /) -> NoReturn:
        try:
            original(status)
        except SystemExit as error:
            if threading.current_thread() is not threading.main_thread():
                raise  # threading silences exactly this class
            raise _Exit(*error.args) from None

    sys.exit = exit


def _install() -> None:
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        previous(kind, error, trace)
        from traceback import format_exception

        _tell("".join(format_exception(kind, error, trace)))

    sys.excepthook = hook
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


_wrap_exit()

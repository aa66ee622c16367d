"""The code that this process exits with, where ``sys.exit``, ``exit`` or ``quit`` names it.

The interpreter tells nobody why it exits, not even ``atexit``. But it reads
the code of the exception that ends it when no Python code is running any
more, which is how an exit is told from one that somebody has caught. An exit
that is raised by name, ``raise SystemExit(1)``, is not heard of.

They are wrapped when `t9k.em` is imported, because ``sys.exit(main())``
looks it up before ``main`` makes a run. That import must stay cheap, so this
module imports nothing that an interpreter has not imported already.
"""

from __future__ import annotations

import builtins
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CODE: Any = vars(SystemExit)["code"]

_listeners: list[Callable[[object], None]] = []


def listen(listener: Callable[[object], None]) -> None:
    """Has a function called with the code, which may be of any type, when the interpreter exits by one."""
    _listeners.append(listener)


class _Exit(SystemExit):
    """What ``sys.exit`` raises: it knows when the interpreter itself reads its code."""

    @property
    def code(self) -> Any:
        code = _CODE.__get__(self)
        try:
            sys._getframe(1)
        except ValueError:  # nobody has called: this is the interpreter
            for listener in _listeners:
                try:
                    listener(code)
                except Exception:  # the exit itself must go on
                    continue
        return code

    @code.setter
    def code(self, value: Any) -> None:
        _CODE.__set__(self, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return SystemExit, self.args


_Exit.__name__ = _Exit.__qualname__ = "SystemExit"


def _wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
    def exit(*arguments: Any, **named: Any) -> Any:
        try:
            return original(*arguments, **named)
        except SystemExit as error:
            import threading

            if threading.current_thread() is not threading.main_thread():
                raise  # threading silences exactly this class
            raise _Exit(*error.args) from None

    exit.__doc__ = original.__doc__
    return exit


def _wrap() -> None:
    sys.exit = _wrapped(sys.exit)
    quitter: Any = type(getattr(builtins, "exit", None))
    if quitter.__module__ == "_sitebuiltins":  # what `exit(1)` and `quit(1)` call; a notebook has its own
        quitter.__call__ = _wrapped(quitter.__call__)


_wrap()

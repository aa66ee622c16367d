"""The code that this process exits with.

The interpreter tells nobody why it exits, not even ``atexit``. But it reads
the ``code`` of the `SystemExit` that ends it, however that was raised, when
no Python code is running any more: by this an exit is told from one that
somebody has caught. So `listen` puts an attribute that notices such a reader
in the place of ``SystemExit.code``.

The class is immutable to assignments, not to its own dict, which the garbage
collector names. Where an interpreter keeps it otherwise, nothing is replaced,
and an exit looks like the end of the script.

Before Python 3.12 the C function ``sys.exit`` leaves nothing but the code
until somebody catches it, and there would be no attribute to read. There it
is wrapped when `t9k.em` is imported, because ``sys.exit(main())`` looks it up
before ``main`` makes a run. That import must stay cheap, so this module
imports nothing that an interpreter has not got already.
"""

from __future__ import annotations

import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType
    from typing import Any


ends: list[CodeType] = []
"""Functions that read the code of an exit which they let end the process."""


class _Code:
    """`SystemExit.code`, which calls a function when the interpreter itself reads it, or one of `ends`."""

    def __init__(self, original: Any, listener: Callable[[object], None]) -> None:
        self._original = original
        self._listener = listener
        self.__doc__ = original.__doc__

    def __get__(self, error: SystemExit | None, kind: type | None = None) -> Any:
        if error is None:
            return self
        code = self._original.__get__(error)
        try:
            if sys._getframe(1).f_code not in ends:
                return code
        except ValueError:  # nobody has called: this is the interpreter
            pass
        try:
            self._listener(code)
        except Exception:  # the exit itself must go on
            return code
        return code

    def __set__(self, error: SystemExit, code: object) -> None:
        self._original.__set__(error, code)

    def __delete__(self, error: SystemExit) -> None:
        self._original.__delete__(error)


def listen(listener: Callable[[object], None]) -> bool:
    """Has a function called with the code, of any type or None, when an uncaught exit ends the interpreter.

    Returns:
        Whether this interpreter can be listened to.
    """
    view = vars(SystemExit)
    found = gc.get_referents(view)
    # Readers find the attribute by a cache of the interpreter's.
    forget = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if [type(names) for names in found] != [dict] or found[0] != view or forget is None:
        return False
    found[0]["code"] = _Code(view["code"], listener)
    forget()
    return True


def _wrapped(original: Callable[..., Any]) -> Callable[..., Any]:
    def exit(*arguments: Any) -> Any:
        try:
            return original(*arguments)
        except SystemExit:  # that it is caught here makes an object of it
            raise

    exit.__doc__ = original.__doc__
    return exit


if sys.version_info < (3, 12):
    sys.exit = _wrapped(sys.exit)

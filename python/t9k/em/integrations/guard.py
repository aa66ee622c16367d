"""Lets a framework's training go on when its record cannot be made."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from t9k.em.warn import warn

_Hook = TypeVar("_Hook", bound=Callable[..., Any])


def guarded(hook: _Hook) -> _Hook:
    """Decorates a method that a framework calls: it returns None instead of raising.

    The first failure of each object is a warning. A full disk while a
    checkpoint is added, or a run that was finished too early, is a gap in the
    record and not the end of the training.
    """

    @functools.wraps(hook)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return hook(self, *args, **kwargs)
        except Exception as error:  # whatever it is, the framework must not see it
            if not getattr(self, "_has_warned", False):
                self._has_warned = True
                name = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}.{hook.__name__}"
                warn(f"{name} failed: {error}; training goes on without this record")
            return None

    return cast(_Hook, call)

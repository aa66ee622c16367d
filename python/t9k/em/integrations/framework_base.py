"""A framework's base class given to ours when the first object is made, not when the module is imported."""

from __future__ import annotations

import importlib
import types
from typing import Any

_made: dict[type, type] = {}


def class_with_base(ours: type, bases: tuple[str, ...]) -> type:
    """Returns ``ours`` as a subclass of the first base class that can be imported.

    Args:
        ours: A class that stays first in the order of method look-up.
        bases: Names such as ``package.module.Class``.

    Raises:
        ImportError: None of the packages is installed.
    """
    if ours in _made:
        return _made[ours]
    for base in bases:
        module, _, name = base.rpartition(".")
        try:
            found: Any = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != module.partition(".")[0]:
                raise  # the package is there, and something it needs is not
            continue
        _made[ours] = types.new_class(ours.__name__, (ours, found), exec_body=lambda space: space.update(_like(ours)))
        return _made[ours]
    packages = " or ".join(dict.fromkeys(base.partition(".")[0] for base in bases))
    raise ImportError(f"{ours.__module__}.{ours.__name__} needs {packages}, which is not installed")


def _like(ours: type) -> dict[str, Any]:
    return {"__module__": ours.__module__, "__doc__": ours.__doc__}

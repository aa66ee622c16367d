"""Warnings that name the script's own line."""

from __future__ import annotations

import sys
import warnings


def warn(message: str) -> None:
    """Warns at the innermost line outside this package, however deep inside the cause was found."""
    depth = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("t9k."):
        frame = frame.f_back
        depth += 1
    warnings.warn(message, RuntimeWarning, stacklevel=depth + 1)

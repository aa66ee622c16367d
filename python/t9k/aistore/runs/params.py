"""What filters see of the hyperparameters of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_PARAMS = 1000
"""Leaves of hparams that filters know; later ones are in the document only."""

MAX_PARAM_KEY_BYTES = 255
MAX_PARAM_TEXT_BYTES = 255


def leaves(hparams: dict[str, Any]) -> list[tuple[str, float | None, str | None]]:
    """Key, number and text of the scalars in hparams, at most `MAX_PARAMS`; names of nested ones have dots between.

    A truth value is 1 or 0 and its name. Lists, and keys that are too long, are left out; text is cut.
    """
    found: dict[str, tuple[float | None, str | None]] = {}
    for key, value in _scalars("", hparams):
        if len(found) == MAX_PARAMS:
            break
        if len(key.encode()) > MAX_PARAM_KEY_BYTES or "\0" in key or key in found:
            continue
        if isinstance(value, bool):
            found[key] = float(value), "true" if value else "false"
        elif isinstance(value, str):
            found[key] = None, _cut(value.replace("\0", ""))
        elif abs(value) <= 2**1023:
            found[key] = float(value), None
    return [(key, number, text) for key, (number, text) in found.items()]


def _scalars(prefix: str, mapping: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in mapping.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _scalars(f"{key}.", value)
        elif isinstance(value, str | bool | int | float):
            yield key, value


def _cut(text: str) -> str:
    return text.encode()[:MAX_PARAM_TEXT_BYTES].decode(errors="ignore")

"""The documents of a run (metadata, hparams, platform, git): what may be in them, and what filters see of hparams."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from t9k.aistore.errors import invalid
from t9k.protocol.runs import MAX_RECORD_DEPTH

MAX_PARAMS = 1000
"""Leaves of hparams that filters know; later ones are in the document only."""

MAX_PARAM_KEY_BYTES = 255
MAX_PARAM_TEXT_BYTES = 255


def check_document(value: dict[str, Any], what: str) -> dict[str, Any]:
    """The document, if every JSON parser reads it as it is.

    Raises:
        Refusal: It is nested too deeply, or has a number that is not finite or text that is not Unicode.
    """
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, dict | list):
            if depth > MAX_RECORD_DEPTH:
                raise invalid(f"{what} nests more than {MAX_RECORD_DEPTH} levels")
            if isinstance(item, dict):
                waiting += [(key, depth) for key in item]
                item = list(item.values())
            waiting += [(part, depth + 1) for part in item]
        elif isinstance(item, str):
            check_text(item, what)
        elif isinstance(item, float) and not math.isfinite(item):
            raise invalid(f"{what} has the number {item}, which JSON has not", hint='send it as text: "Infinity"')
    return value


def check_text(text: str, what: str) -> str:
    """The text, if it is Unicode.

    Raises:
        Refusal: It has half of a surrogate pair.
    """
    if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
        raise invalid(f"{what} has text that is not valid Unicode")
    return text


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

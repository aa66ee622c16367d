"""JSON objects that clients send and get back as they are: metadata of artifacts, and all documents of runs."""

from __future__ import annotations

import math
from typing import Any

from t9k.aistore.errors import invalid
from t9k.protocol.runs import MAX_RECORD_DEPTH


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

"""The parts of a run's record as the protocol takes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from t9k.protocol import MAX_JSON_BYTES
from t9k.protocol.runs import MAX_RECORD_DEPTH

MAX_PART_BYTES = MAX_JSON_BYTES - (64 << 10)
"""Of one document, so that a request with it stays below the cap of bodies."""

_NON_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def document(value: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping from a YAML file as JSON. What JSON lacks becomes text; what is too long is left out, and says so."""
    plain = _plain(value, 1)
    while _size(plain) > MAX_PART_BYTES:
        longest = max(plain, key=lambda key: _size(plain[key]))
        notice = f"[left out: {_size(plain[longest])} bytes]"
        if plain[longest] == notice or _size(plain[longest]) <= len(notice):
            return {"notice": f"[left out: {_size(plain)} bytes]"}
        plain[longest] = notice
    return dict(plain)


def _plain(value: Any, depth: int) -> Any:
    if isinstance(value, Mapping | list | tuple):
        if depth > MAX_RECORD_DEPTH:
            return "[left out: nested too deeply]"
        if isinstance(value, Mapping):
            return {_text(str(key)): _plain(item, depth + 1) for key, item in value.items()}
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else _NON_FINITE[repr(value)]
    return value if isinstance(value, int) else _text(str(value))


def _text(text: str) -> str:
    return text.encode(errors="replace").decode()


def _size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())

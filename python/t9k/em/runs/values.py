"""Numbers as floats, and values as JSON can hold them."""

from __future__ import annotations

import math
from typing import Any


def json_value(value: Any) -> Any:
    """Returns the value with NaN and infinities as text, and with what YAML has more than JSON, such as dates, too."""
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): json_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    return value if value is None or isinstance(value, str | int) else str(value)


def to_float(number: float) -> float:
    """Returns an integer of any size as a float."""
    try:
        return float(number)
    except OverflowError:  # an integer beyond 1.8e308
        return math.inf if number > 0 else -math.inf

"""What frameworks hand to callbacks, made fit for a record: never an error, because training must go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t9k.em.errors import InvalidInputError
from t9k.em.metrics import encode_line, to_number
from t9k.em.params import to_plain


def plain_params(values: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns hyperparameters; a value that YAML cannot hold becomes its name or class."""
    plain: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key)
        try:
            plain[name] = to_plain(value, name)
        except InvalidInputError:
            plain[name] = plain_params(value) if isinstance(value, Mapping) else label_of(value)
    return plain


def label_of(value: object) -> str:
    """Returns the name of a function, class or object, else its class's name; never an address."""
    name = getattr(value, "__name__", None) or getattr(value, "name", None)
    return name if isinstance(name, str) else type(value).__name__


def numbers(values: Mapping[Any, Any], prefix: str = "") -> dict[str, int | float]:
    """Returns the entries that are one number each, without a prefix of their names."""
    found: dict[str, int | float] = {}
    for key, value in values.items():
        name = str(key).removeprefix(prefix)
        try:
            number = to_number(name, value)
            encode_line({name: number}, 0, None, "")
        except InvalidInputError:
            continue
        found[name] = number
    return found

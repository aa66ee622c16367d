"""Metric names of frameworks to the types of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping

from t9k.em.errors import InvalidInputError
from t9k.em.metrics import TYPE_ALIASES, canonical_type


def type_of_data(name: str) -> str:
    """Returns the metrics type for a data set's name, with what cannot be in a file's name replaced by ``_``."""
    try:
        return canonical_type(name)
    except InvalidInputError:
        return canonical_type(re.sub(r"[^\w.-]", "_", f"_{name}", flags=re.ASCII)[:100])


def by_type(metrics: Mapping[str, int | float], default: str = "train") -> dict[str, dict[str, int | float]]:
    """Sorts ``val_loss``, ``val/loss`` and the like by type, without that prefix; the rest is the default's."""
    found: dict[str, dict[str, int | float]] = {}
    for name, value in metrics.items():
        prefix, separator, rest = _parts(name)
        known = bool(separator and rest) and prefix in TYPE_ALIASES
        kind, short = (TYPE_ALIASES[prefix], rest) if known else (default, name)
        found.setdefault(kind, {})[short] = value
    return found


def _parts(name: str) -> tuple[str, str, str]:
    match = re.match(r"([A-Za-z]+)([_/.])(.*)", name, re.DOTALL)
    return (match[1], match[2], match[3]) if match else (name, "", "")

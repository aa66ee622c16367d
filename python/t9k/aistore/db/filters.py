"""Filters of listings as conditions of SQL: every value is a bound parameter."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from t9k.aistore.db.nodes import name_key
from t9k.aistore.db.tables.runs import metric_series, run_params, runs
from t9k.aistore.db.tables.tree import labels, nodes
from t9k.aistore.tree.query import All, Comparison, Filter, Not, Some

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

Condition = sa.ColumnElement[bool]


def condition(wanted: Filter) -> Condition:
    """The condition of a filter on rows of `nodes`."""
    match wanted:
        case Not(inside):
            return sa.not_(condition(inside))
        case All(parts):
            return sa.and_(*map(condition, parts))
        case Some(parts):
            return sa.or_(*map(condition, parts))
        case Comparison():
            return _FIELDS[wanted.field](wanted)


def _kind(wanted: Comparison) -> Condition:
    return _compared(nodes.c.kind, wanted)


def _name(wanted: Comparison) -> Condition:
    if wanted.operator in ("~", "!~"):
        found = nodes.c.name_key.like(_pattern(name_key(str(wanted.value))), escape="\\")
        return found if wanted.operator == "~" else sa.not_(found)
    return _compared(nodes.c.name, wanted)


def _time(wanted: Comparison) -> Condition:
    return _compared(nodes.c.created_us if wanted.field == "created" else nodes.c.changed_us, wanted)


def _label(wanted: Comparison) -> Condition:
    """``!=`` and ``!~`` mean that no label is so."""
    is_negated = wanted.operator.startswith("!")
    positive = replace(wanted, operator={"!=": "=", "!~": "~"}.get(wanted.operator, wanted.operator))
    found = sa.exists().where(labels.c.node_id == nodes.c.id, _compared(labels.c.label, positive))
    return sa.not_(found) if is_negated else found


def _state(wanted: Comparison) -> Condition:
    return sa.exists().where(runs.c.node_id == nodes.c.id, _compared(runs.c.state, wanted))


def _metric(wanted: Comparison) -> Condition:
    kind, name = wanted.key
    here = (metric_series.c.node_id == nodes.c.id, metric_series.c.type == kind, metric_series.c.name == name)
    return sa.exists().where(*here, _compared(metric_series.c.last, wanted))


def _param(wanted: Comparison) -> Condition:
    column = run_params.c.text if isinstance(wanted.value, str) else run_params.c.number
    here = (run_params.c.node_id == nodes.c.id, run_params.c.key == wanted.key[0])
    return sa.exists().where(*here, _compared(column, wanted))


_FIELDS: dict[str, Callable[[Comparison], Condition]] = {
    "kind": _kind,
    "name": _name,
    "label": _label,
    "state": _state,
    "created": _time,
    "changed": _time,
    "metric": _metric,
    "param": _param,
}


def _compared(column: Any, wanted: Comparison) -> Condition:
    if wanted.operator not in ("~", "!~"):
        found: Condition = _OPERATORS[wanted.operator](column, wanted.value)
        return found
    # Without regard to case in ASCII: all that both databases do alike.
    lowered = "".join(char.lower() if char.isascii() else char for char in str(wanted.value))
    like: Condition = sa.func.lower(column).like(_pattern(lowered), escape="\\")
    return like if wanted.operator == "~" else sa.not_(like)


def _pattern(text: str) -> str:
    """A pattern of LIKE, in which only ``*`` and ``?`` stand for anything."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return escaped.replace("*", "%").replace("?", "_")

r"""Filters of listings: a small language, read into a tree of comparisons that `db.filters` turns into SQL.

```text
filter     = and { "or" and }
and        = not { "and" not }
not        = "not" not | "(" filter ")" | comparison
comparison = field operator value
operator   = "=" | "!=" | "<" | "<=" | ">" | ">=" | "~" | "!~"
field      = segment { "." segment }
value      = number | word | string
segment    = word | string
string     = '"' { any character but " and \, or one of them after \ } '"'
```

Every part has a cap, and nothing of a filter ever becomes SQL text.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from t9k.aistore.errors import Refusal, invalid

MAX_FILTER_CHARS = 2000
MAX_COMPARISONS = 50
MAX_NESTING = 20

_ORDER = ("<", "<=", ">", ">=")
_EQUAL = ("=", "!=")
_LIKE = ("~", "!~")


@dataclass(frozen=True)
class Comparison:
    """A field against a value.

    Attributes:
        field: ``kind``, ``name``, ``label``, ``state``, ``created``, ``changed``, ``metric`` or ``param``.
        key: Type and name of a metric, key of a parameter; else empty.
        operator: As it is written.
        value: A number, microseconds since 1970 for a time, or text; after ``~`` with ``*`` and ``?`` for anything.
    """

    field: str
    key: tuple[str, ...]
    operator: str
    value: str | float | int


@dataclass(frozen=True)
class Not:
    """What is inside does not hold."""

    inside: Filter


@dataclass(frozen=True)
class All:
    """All parts hold."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Some:
    """At least one part holds."""

    parts: tuple[Filter, ...]


Filter = Comparison | Not | All | Some

_SEGMENT = r'"(?:[^"\\]|\\["\\])*"|[^\s()"=!<>~.]+'
_TOKEN = re.compile(rf"\s*(?:(?P<mark>[()]|!=|<=|>=|!~|[=<>~])|(?P<word>(?:{_SEGMENT})(?:\.(?:{_SEGMENT}))*))")
_SEGMENTS = re.compile(_SEGMENT)


@dataclass(frozen=True)
class _Token:
    text: str
    at: int
    is_word: bool = False

    @property
    def is_quoted(self) -> bool:
        return self.is_word and self.text.startswith('"') and len(self.segments) == 1

    @property
    def segments(self) -> list[str]:
        return [_unquoted(found[0]) for found in _SEGMENTS.finditer(self.text)]


def parse_filter(text: str) -> Filter:
    """The tree of a filter.

    Raises:
        Refusal: It is none, or too long, wide or deep; the message says where (`invalid_input`).
    """
    if len(text) > MAX_FILTER_CHARS:
        raise invalid(f"the filter has more than {MAX_FILTER_CHARS} characters")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in text):
        raise invalid("the filter has a control character")
    return _Parser(unicodedata.normalize("NFC", text)).parse()


class _Parser:
    def __init__(self, text: str) -> None:
        self._end = len(text)
        self._tokens = list(_tokens(text))
        self._next = 0
        self._comparisons = 0

    def parse(self) -> Filter:
        found = self._some(0)
        if (token := self._peek()) is not None:
            raise _wrong(token.at, f"{token.text[:40]!r} is one too many")
        return found

    def _some(self, depth: int) -> Filter:
        if depth > MAX_NESTING:
            raise invalid(f"the filter is nested more than {MAX_NESTING} deep")
        parts = [self._all(depth)]
        while self._take("or"):
            parts.append(self._all(depth))
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def _all(self, depth: int) -> Filter:
        parts = [self._not(depth)]
        while self._take("and"):
            parts.append(self._not(depth))
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _not(self, depth: int) -> Filter:
        negated = False
        while self._take("not"):
            negated = not negated
        if self._take("("):
            found = self._some(depth + 1)
            if not self._take(")"):
                raise _wrong(self._at(), "there is no ) for a (")
        else:
            found = self._comparison()
        return Not(found) if negated else found

    def _comparison(self) -> Filter:
        self._comparisons += 1
        if self._comparisons > MAX_COMPARISONS:
            raise invalid(f"the filter has more than {MAX_COMPARISONS} comparisons")
        field, operator, value = self._word("a field"), self._operator(), self._word("a value")
        return _compared(field, operator, value)

    def _word(self, what: str) -> _Token:
        token = self._peek()
        if token is None or not token.is_word:
            raise _wrong(self._at(), f"there is no {what[2:]}")
        self._next += 1
        return token

    def _operator(self) -> str:
        token = self._peek()
        if token is None or token.text not in (*_ORDER, *_EQUAL, *_LIKE):
            raise _wrong(self._at(), "there is no operator")
        self._next += 1
        return token.text

    def _take(self, text: str) -> bool:
        token = self._peek()
        is_there = token is not None and token.text == text
        self._next += is_there
        return is_there

    def _peek(self) -> _Token | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _at(self) -> int:
        token = self._peek()
        return self._end if token is None else token.at


def _tokens(text: str) -> Iterator[_Token]:
    at, end = 0, len(text.rstrip())
    while at < end:
        found = _TOKEN.match(text, at)
        if found is None:
            raise _wrong(at, "that cannot be read")
        word = found["word"]
        yield _Token(word or found["mark"], found.start("word" if word else "mark"), word is not None)
        at = found.end()


def _compared(field: _Token, operator: str, value: _Token) -> Comparison:
    name, *key = field.segments
    if name == "metric" and len(key) >= 2 and operator in _ORDER + _EQUAL:
        return Comparison("metric", (key[0], ".".join(key[1:])), operator, _number(value))
    if name == "param" and key:
        number = None if value.is_quoted else _number_or_none(value.text)
        if operator in _ORDER + _EQUAL and number is not None:
            return Comparison("param", (".".join(key),), operator, number)
        if operator in _EQUAL + _LIKE:
            return Comparison("param", (".".join(key),), operator, _text(value))
    if not key and name in ("created", "changed") and operator in _ORDER:
        return Comparison(name, (), operator, _time_us(value))
    if not key and name in ("kind", "state") and operator in _EQUAL:
        return Comparison(name, (), operator, _text(value))
    if not key and name in ("name", "label") and operator in _EQUAL + _LIKE:
        return Comparison(name, (), operator, _text(value))
    raise _wrong(field.at, f"nothing is compared so: {field.text[:80]} {operator}")


def _text(token: _Token) -> str:
    return ".".join(token.segments)


def _number(token: _Token) -> float:
    number = None if token.is_quoted else _number_or_none(token.text)
    if number is None:
        raise _wrong(token.at, f"{token.text[:40]} is no number")
    return number


def _number_or_none(text: str) -> float | None:
    if text in ("true", "false"):
        return float(text == "true")
    if not re.fullmatch(r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,3})?", text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _time_us(token: _Token) -> int:
    try:
        moment = datetime.fromisoformat(".".join(token.segments))
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return round(moment.timestamp() * 1_000_000)
    except (ValueError, OverflowError):
        raise _wrong(token.at, f"{token.text[:40]} is no time: write 2026-01-31 or 2026-01-31T12:00:00Z") from None


def _unquoted(segment: str) -> str:
    return re.sub(r"\\(.)", r"\1", segment[1:-1]) if segment.startswith('"') else segment


def _wrong(at: int, what: str) -> Refusal:
    return invalid(f"the filter is wrong at character {at + 1}: {what}", hint="docs/protocol.md has the grammar")

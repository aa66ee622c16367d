"""Logged points in columns: what a metrics file holds, in a tenth of its dicts' memory.

Lines of one shape, which is how a training loop logs, differ in their numbers
alone. Taking out the constant parts leaves one flat JSON list of a block,
which the C parser reads at once, without a dict for each line.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

Point = dict[str, dict[str, Any]]

_BATCH_POINTS = 10_000
_STAMP_CHARS = 24  # 2026-01-01T00:00:00.000Z


def _pack(values: list[Any]) -> Sequence[Any]:
    """Returns numbers of one type in 8 bytes each, others as they are."""
    kinds = set(map(type, values))
    if kinds == {float}:
        return array("d", values)
    if kinds == {int}:
        try:
            return array("q", values)
        except OverflowError:
            return values
    return values


class Block:
    """Consecutive points with the same metrics."""

    def __init__(
        self,
        names: tuple[str, ...],
        values: list[Sequence[Any]],
        steps: Sequence[int],
        epochs: Sequence[int] | None,
        stamps: str,
    ) -> None:
        """Keeps the columns as they are given.

        Args:
            names: Names of the metrics.
            values: One column for each name.
            steps: Steps of the points.
            epochs: Epochs of the points, if they have any.
            stamps: Timestamps of the points, each of 24 characters.
        """
        self.names = names
        self.values = values
        self.steps = steps
        self.epochs = epochs
        self.stamps = stamps

    def __len__(self) -> int:
        return len(self.steps)

    def point(self, index: int) -> Point:
        """Returns one point, newly made."""
        at: dict[str, Any] = {"step": self.steps[index]}
        if self.epochs is not None:
            at["epoch"] = self.epochs[index]
        at["timestamp"] = self.stamps[index * _STAMP_CHARS : (index + 1) * _STAMP_CHARS]
        return {
            "metrics": {name: column[index] for name, column in zip(self.names, self.values, strict=True)},
            "at": at,
        }


def decode_block(data: bytes, first: Any) -> Block | None:
    """Reads whole lines that all have the shape of the first one.

    Args:
        data: Lines as `encode_line` makes them.
        first: The first line, decoded.

    Returns:
        None if a line has another shape, a value that is not finite, or is
        damaged: read them one by one.
    """
    at = list(first["at"])
    names = tuple(first["metrics"])
    if not names or at not in (["step", "timestamp"], ["step", "epoch", "timestamp"]):
        return None
    line = data[: data.index(b"\n") + 1]
    pieces = _pieces(line, len(names) + len(at))
    count = data.count(b"\n")
    if pieces is None:
        return None
    # A line of another shape keeps some of its text, which no list of numbers can contain.
    data = data[len(pieces[0]) : -len(pieces[-1])].replace(pieces[-1] + pieces[0], b'",')
    for piece in pieces[1:-2]:
        data = data.replace(piece, b",")
    data = data.replace(pieces[-2], b',"')
    try:
        flat = json.loads(b'[%s"]' % data)
    except (ValueError, RecursionError):
        return None
    width = len(names) + len(at)
    if len(flat) != count * width:
        return None
    columns = [flat[index::width] for index in range(width)]
    stamps = columns.pop()
    if set(map(type, stamps)) != {str} or set(map(len, stamps)) != {_STAMP_CHARS}:
        return None
    if any(not set(map(type, column)) <= {int, float} for column in columns):
        return None
    if any(set(map(type, column)) != {int} for column in columns[len(names) :]):
        return None
    packed = [_pack(column) for column in columns]
    epochs = packed[-1] if len(at) == 3 else None
    return Block(names, packed[: len(names)], packed[len(names)], epochs, "".join(stamps))


def _pieces(line: bytes, width: int) -> list[bytes] | None:
    """Returns the constant parts of a line, in their order: before, between and after its values."""
    pieces, rest = [], line
    head, stop = b'- {"metrics": {', b'"timestamp": "'
    if not rest.startswith(head):
        return None
    start = 0
    for _ in range(width - 1):
        # Up to the value behind the next `": `; quotes in names are escaped as \u0022.
        end = rest.find(b'": ', start)
        while end >= 0 and rest[end + 3 : end + 4] == b"{":
            end = rest.find(b'": ', end + 3)
        if end < 0:
            return None
        pieces.append(rest[: end + 3])
        rest = rest[end + 3 :]
        start = 0
        value_end = min((found for found in (rest.find(b","), rest.find(b"}")) if found >= 0), default=-1)
        if value_end < 0:
            return None
        rest = rest[value_end:]
    end = rest.find(stop)
    if end < 0:
        return None
    pieces.append(rest[: end + len(stop)])
    rest = rest[end + len(stop) :]
    pieces.append(rest[rest.find(b'"') :])
    return pieces if pieces[-1] == b'"}}\n' else None


class Columns(NamedTuple):
    """Some consecutive points in columns of one length, with None where something was not logged."""

    metrics: Mapping[str, Sequence[Any]]
    steps: Sequence[Any]
    epochs: Sequence[Any]
    timestamps: Sequence[Any]


class Points(Sequence[Point]):
    """The points of one type, in the order of their logging; equal to the list of them.

    A point is made anew each time it is asked for: changing it changes
    nothing here. `column` and `steps` need no dicts at all.
    """

    def __init__(self) -> None:
        """Has no points yet."""
        self._parts: list[Block | list[Point]] = []
        self._count = 0

    def add(self, part: Block | list[Point]) -> None:
        """Appends points; one-by-one lists are joined."""
        self._count += len(part)
        if isinstance(part, list) and self._parts and isinstance(self._parts[-1], list):
            self._parts[-1].extend(part)
        elif len(part):
            self._parts.append(part)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Point]:
        for part in self._parts:
            if isinstance(part, Block):
                for index in range(len(part)):
                    yield part.point(index)
            else:
                yield from part

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> list[Point]: ...
    def __getitem__(self, index: int | slice) -> Point | list[Point]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(self._count))]
        position = index + self._count if index < 0 else index
        for part in self._parts:
            if 0 <= position < len(part):
                return part.point(position) if isinstance(part, Block) else part[position]
            position -= len(part)
        raise IndexError(f"point {index} of {self._count}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Points | list):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Points: {self._count} of {', '.join(self.names()) or 'nothing'}>"

    def names(self) -> list[str]:
        """Returns the names of all metrics, in the order of their first logging."""
        found: dict[str, None] = {}
        for part in self._parts:
            if isinstance(part, Block):
                found.update(dict.fromkeys(part.names))
            else:
                for point in part:
                    found.update(dict.fromkeys(point["metrics"]))
        return list(found)

    def column(self, name: str) -> list[Any]:
        """Returns a metric's value at each point, None where it was not logged."""
        column: list[Any] = []
        for part in self._parts:
            if not isinstance(part, Block):
                column.extend(point["metrics"].get(name) for point in part)
            elif name in part.names:
                column.extend(part.values[part.names.index(name)])
            else:
                column.extend([None] * len(part))
        return column

    def at(self, name: str) -> list[Any]:
        """Returns ``step``, ``epoch`` or ``timestamp`` of each point, None where there is none."""
        column: list[Any] = []
        for part in self._parts:
            if not isinstance(part, Block):
                column.extend(point["at"].get(name) for point in part)
            elif name == "timestamp":
                column.extend(
                    part.stamps[start : start + _STAMP_CHARS] for start in range(0, len(part.stamps), _STAMP_CHARS)
                )
            else:
                values = part.steps if name == "step" else part.epochs if name == "epoch" else None
                column.extend([None] * len(part) if values is None else values)
        return column

    def batches(self) -> Iterator[Columns]:
        """Yields all points in batches of columns, for what must not hold them all as objects.

        Values that no log call writes, such as text, are None.
        """
        for part in self._parts:
            if isinstance(part, Block):
                stamps = [
                    part.stamps[start : start + _STAMP_CHARS] for start in range(0, len(part.stamps), _STAMP_CHARS)
                ]
                epochs = [None] * len(part) if part.epochs is None else part.epochs
                yield Columns(dict(zip(part.names, part.values, strict=True)), part.steps, epochs, stamps)
            else:
                for start in range(0, len(part), _BATCH_POINTS):
                    yield _columns(part[start : start + _BATCH_POINTS])


def _columns(points: list[Point]) -> Columns:
    names = dict.fromkeys(name for point in points for name in point["metrics"])
    metrics = {name: [_checked(point["metrics"].get(name), (int, float)) for point in points] for name in names}
    steps, epochs = ([_checked(point["at"].get(name), (int,)) for point in points] for name in ("step", "epoch"))
    return Columns(metrics, steps, epochs, [_checked(point["at"].get("timestamp"), (str,)) for point in points])


def _checked(value: Any, kinds: tuple[type, ...]) -> Any:
    return value if type(value) in kinds else None

"""A plot in characters: Braille dots, or letters where the output cannot hold them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from t9k.em.runs.curves import Curve, Line, View, thinned, tick_text, ticks, view_of

COLORS = ("cyan", "yellow", "magenta", "green", "blue", "red")
_LABEL_COLUMNS = 10
_MAX_SEGMENT_DOTS = 10_000
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille character, by row and column of its dots."""


class _Canvas:
    """Cells of 2 by 4 dots, each with the curve that drew there last."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.bits = [[0] * columns for _ in range(rows)]
        self.owners = [[-1] * columns for _ in range(rows)]

    def draw(self, line: Line, view: View, owner: int) -> None:
        """Draws straight lines between neighbours."""
        wide, high = 2 * self.columns - 1, 4 * self.rows - 1
        dots = [
            (
                round((x - view.x_low) / (view.x_high - view.x_low) * wide),
                round((view.y_high - y) / (view.y_high - view.y_low) * high),
            )
            for x, y in line
        ]
        for (x0, y0), (x1, y1) in zip(dots, dots[1:] or dots, strict=False):
            count = min(max(abs(x1 - x0), abs(y1 - y0), 1), _MAX_SEGMENT_DOTS)
            for index in range(count + 1):
                self._dot(x0 + round((x1 - x0) * index / count), y0 + round((y1 - y0) * index / count), owner)

    def _dot(self, x: int, y: int, owner: int) -> None:
        row, column = y // 4, x // 2
        if 0 <= row < self.rows and 0 <= column < self.columns:
            self.bits[row][column] |= _DOTS[y % 4][x % 2]
            self.owners[row][column] = owner


def plot_lines(
    curves: Sequence[Curve],
    columns: int,
    rows: int,
    *,
    is_log: bool,
    is_ascii: bool,
    style: Callable[[str, str], str],
) -> Iterator[str]:
    """Yields the lines of a plot; its legend is the caller's.

    Args:
        curves: What is drawn.
        columns: Columns of the whole.
        rows: Rows of the whole.
        is_log: Whether the y axis is logarithmic.
        is_ascii: Whether to draw with letters instead of Braille.
        style: Returns a text in a colour of `COLORS`.
    """
    canvas = _Canvas(max(columns - _LABEL_COLUMNS - 2, 10), max(rows - 2, 4))
    pieces = [thinned(curve, 2 * canvas.columns, is_log) for curve in curves]
    view = view_of((line for lines in pieces for line in lines), is_log)
    if view is None:
        yield "there are no values that could be drawn"
        return
    for owner, lines in enumerate(pieces):
        for line in lines:
            canvas.draw(line, view, owner)
    labels = _labels(view, canvas.rows)
    vertical, corner, horizontal = ("|", "+", "-") if is_ascii else ("│", "└", "─")
    for row in range(canvas.rows):
        cells = "".join(
            style(_character(bits, owner, is_ascii), COLORS[owner % len(COLORS)]) if bits else " "
            for bits, owner in zip(canvas.bits[row], canvas.owners[row], strict=True)
        )
        yield f"{labels.get(row, ''):>{_LABEL_COLUMNS}} {vertical}{cells}".rstrip()
    yield " " * (_LABEL_COLUMNS + 1) + corner + horizontal * canvas.columns
    yield " " * (_LABEL_COLUMNS + 2) + _x_labels(view, canvas.columns)


def _character(bits: int, owner: int, is_ascii: bool) -> str:
    return chr(ord("a") + owner % 26) if is_ascii else chr(0x2800 + bits)


def _labels(view: View, rows: int) -> dict[int, str]:
    """The rows of the y axis that have a label."""
    scale = (rows - 1) / (view.y_high - view.y_low)
    found = ticks(view.y_low, view.y_high, max(rows // 3, 1))
    return {round((view.y_high - tick) * scale): tick_text(tick, view.is_log) for tick in found}


def _x_labels(view: View, columns: int) -> str:
    line = ""
    for tick in ticks(view.x_low, view.x_high, max(columns // 12, 1)):
        text = tick_text(tick)
        column = round((tick - view.x_low) / (view.x_high - view.x_low) * (columns - 1))
        start = min(max(column - len(text) // 2, 0), columns - len(text))
        if not line or start > len(line):
            line = line.ljust(start) + text
    return line

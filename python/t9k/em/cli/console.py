"""Text for terminals: sizes, JSON, tables."""

from __future__ import annotations

import json
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence

import click

from t9k.em.escape import printable
from t9k.em.runs.values import json_value, to_float


def echo_json(value: object) -> None:
    """Prints one JSON document; numbers that JSON lacks become the texts NaN, Infinity and -Infinity."""
    # Escaped for terminals, where text could turn the direction of writing.
    click.echo(json.dumps(json_value(value), ensure_ascii=is_terminal()))


def echo_json_rows(rows: Iterable[object], rest: dict[str, object] | None = None, name: str = "") -> None:
    """Prints one JSON array, each element as soon as it is made; with a `rest`, as the last value of that object."""

    def text(value: object) -> str:
        return json.dumps(json_value(value), ensure_ascii=is_terminal())

    click.echo("[" if rest is None else f'{text(rest)[:-1]}, "{name}": [', nl=False)
    for number, row in enumerate(rows):
        click.echo((", " if number else "") + text(row), nl=False)
    click.echo("]" if rest is None else "]}")


def exact_size_text(size_bytes: int) -> str:
    """A size to the byte."""
    return f"{size_bytes:,} B"


def number_text(value: float) -> str:
    """A number in at most seven characters or so; integers whole."""
    return str(value) if isinstance(value, int) and abs(value) < 10**15 else f"{to_float(value):.5g}"


def moment_text(seconds: float | None) -> str:
    """A time since the epoch as local date and time, `-` if it is not known."""
    try:
        return "-" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "-"


def duration_text(seconds: float | None) -> str:
    """A duration in its two largest units, `-` if it is not known."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if hours == 0:
        return f"{minutes}m{int(seconds % 60):02}s"
    return f"{hours}h{minutes % 60:02}m" if days == 0 else f"{days}d{hours % 24:02}h"


def count_text(count: int, noun: str) -> str:
    """A number of things: 1 file, 2 files."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def width(text: str) -> int:
    """Columns that printable text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text
    )


def clip(text: str, columns: int) -> str:
    """Returns the text, or its beginning and `…`, in so many columns."""
    if width(text) <= columns:
        return text
    while text and width(text) > columns - 1:
        text = text[:-1]
    return text + "…"


STATUS_COLORS = {"Running": "cyan", "Complete": "green", "Failed": "red", "Crashed": "red"}


def is_terminal() -> bool:
    """Whether people read the output, in which case lines are clipped to their terminal."""
    return sys.stdout.isatty()


def is_drawable() -> bool:
    """Whether the output can hold characters such as blocks and Braille."""
    try:
        "█⣿…".encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def echo_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    right: Collection[int] = (),
    colors: Callable[[int, int, str], str | None] = lambda row, column, cell: None,
) -> None:
    """Prints aligned columns under a header that terminals show dim.

    Args:
        header: Names of the columns.
        rows: Cells; they are escaped here.
        right: Indexes of the columns that are aligned at their right.
        colors: Returns the colour of a cell, given its row, column and text.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    header = [printable(name) for name in header]
    widths = [max(map(width, column)) for column in zip(header, *cells, strict=True)]

    room = shutil.get_terminal_size().columns if is_terminal() else 0

    def line(row: Sequence[str], number: int) -> str:
        text, used = "", 0
        for column, (cell, columns) in enumerate(zip(row, widths, strict=True)):
            if room and used + width(cell) > room - 1:
                cell = clip(cell, max(room - 1 - used, 1))
            space = " " * (columns - width(cell))
            is_last = column == len(row) - 1
            color = colors(number, column, cell) if number >= 0 else None
            styled = click.style(cell, fg=color) if color else cell
            text += space + styled if column in right else styled + ("" if is_last else space)
            text += "" if is_last else "  "
            used += columns + 2
            if room and used >= room:
                break
        return text

    click.secho(line(header, -1).rstrip(), dim=True)
    for number, row in enumerate(cells):
        click.echo(line(row, number))

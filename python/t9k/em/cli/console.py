"""Text for terminals: sizes, JSON, tables."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import click

from t9k.em.cli.escape import printable


def echo_json(value: object) -> None:
    """Prints one JSON document; numbers that JSON lacks become the texts NaN, Infinity and -Infinity."""
    click.echo(json.dumps(json_value(value), ensure_ascii=False))


def json_value(value: Any) -> Any:
    """Returns the value with floats that JSON cannot hold as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {key: json_value(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    return value


def size_text(size_bytes: int) -> str:
    """A size as people read it: a decimal and a binary unit."""
    size, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


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


def echo_table(header: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> None:
    """Prints aligned columns under a header that terminals show dim.

    Args:
        header: Names of the columns.
        rows: Cells; they are escaped here.
        right: Indexes of the columns that are aligned at their right.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(width, column)) for column in zip(header, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = []
        for index, (cell, columns) in enumerate(zip(row, widths, strict=True)):
            space = " " * (columns - width(cell))
            padded.append(space + cell if index in right else cell + space)
        return "  ".join(padded).rstrip()

    click.secho(line(header), dim=True)
    for row in cells:
        click.echo(line(row))

"""How `aistore` shows lists: a table for people, or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

as_json = click.option("--json", "as_json", is_flag=True, help="JSON for programs.")


def show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """Prints rows of the same columns; a value that is None is empty in the table."""
    if as_json:
        click.echo(json.dumps(list(rows), indent=1))
        return
    if not rows:
        click.echo("none", err=True)
        return
    lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _text(value: Any) -> str:
    if value is None:
        return ""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return "".join(char if char.isprintable() else "?" for char in text)

"""What notebooks show of a Run, an Artifact or Params: small tables, with everything escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from t9k.em.run import Run

MAX_ROWS = 50
MAX_TEXT_CHARS = 200


def _cell(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    if len(text) > MAX_TEXT_CHARS:
        text = text[:MAX_TEXT_CHARS] + "…"
    # Controls and marks of direction could show something else than is there.
    return escape("".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text))


def table(title: str, rows: Iterable[tuple[str, object]]) -> str:
    """Returns an HTML table of two columns; rows beyond `MAX_ROWS` are counted."""
    listed = list(rows)
    lines = [f"<tr><th style='text-align:left'>{_cell(key)}</th><td>{_cell(value)}</td></tr>" for key, value in listed]
    if len(lines) > MAX_ROWS:
        lines[MAX_ROWS:] = [f"<tr><td colspan='2'>… {len(listed) - MAX_ROWS} more</td></tr>"]
    return f"<div><strong>{_cell(title)}</strong><table>{''.join(lines)}</table></div>"


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """Returns nested mappings as rows of dotted keys."""
    rows: list[tuple[str, object]] = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows.extend(flatten(value, f"{prefix}{key}."))
        else:
            rows.append((f"{prefix}{key}", value))
    return rows


def run_table(run: Run) -> str:
    """Returns a run's status, hyperparameters and last metrics as a table."""
    known = {
        "status": run.status,
        "started": run.start_timestamp,
        "ended": run.end_timestamp,
        "labels": ", ".join(run.labels),
        "description": run.description,
        "local": run.local,
        "lost log calls": run._metadata().get("lost_log_lines"),
    }
    rows: list[tuple[str, object]] = [(key, value) for key, value in known.items() if value]
    rows += flatten(run.hparams.to_dict(), "hparams.")
    for kind, points in run.metrics.items():
        if len(points):
            rows += [(f"{kind}.{name}", value) for name, value in points[-1]["metrics"].items()]
    return table(f"Run {run.alternative_name}", rows)

"""`em runs`."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any

import click

from t9k.em.cli.console import (
    STATUS_COLORS,
    duration_text,
    echo_json,
    echo_table,
    is_terminal,
    moment_text,
    number_text,
)
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable

if TYPE_CHECKING:
    from t9k.em.runs.record import RunRecord

_MAX_METRICS = 4
_TERMINAL_RUNS = 50
_ROOMY_COLUMNS = 100


@click.command("runs", cls=Verb, examples=["em runs", "em runs --state Failed --name 'mnist*'", "em runs --json"])
@click.option("--name", "pattern", metavar="PATTERN", help="Only those whose name matches, as `mnist*` does.")
@click.option("--label", "labels", multiple=True, help="Only those with this label; several: with all of them.")
@click.option(
    "--state",
    type=click.Choice(["Running", "Complete", "Failed", "Crashed"], case_sensitive=False),
    help="Only those in this state.",
)
@click.option("-n", "--limit", type=click.IntRange(min=1), help="Only the newest so many; on a terminal 50 of them.")
@json_option
def command(pattern: str | None, labels: tuple[str, ...], state: str | None, limit: int | None, as_json: bool) -> None:
    """List local runs, the newest first, with the last values of their metrics."""
    from fnmatch import fnmatchcase

    from t9k.em.runs.record import find_records, run_parent_dir

    records, problems = find_records(run_parent_dir())
    for problem in problems:
        click.echo(f"Warning: {printable(problem)}", err=True)
    chosen = [
        record
        for record in records
        if (pattern is None or fnmatchcase(record.text("name"), pattern) or fnmatchcase(record.name, pattern))
        and set(labels) <= set(record.labels)
        and state in (None, record.status)
    ]
    if as_json:
        echo_json([_as_json(record) for record in chosen[:limit]])
    elif chosen:
        _echo_runs(chosen, limit or (_TERMINAL_RUNS if is_terminal() else len(chosen)))
    else:
        click.echo(f"no such runs in {printable(run_parent_dir())}" if records else "no runs", err=True)


def _echo_runs(records: list[RunRecord], limit: int) -> None:
    rows = [
        [
            record.name,
            record.status,
            moment_text(record.started_s),
            duration_text(record.duration_s),
            _metrics_text(_last_values(record)),
        ]
        for record in records[:limit]
    ]
    header = ["name", "state", "started", "duration", "last metrics"]
    if is_terminal() and shutil.get_terminal_size().columns < _ROOMY_COLUMNS:
        for line in (header, *rows):
            del line[2]  # which the name tells as well; the metrics would be off the screen
    echo_table(
        header,
        rows,
        right={header.index("duration")},
        colors=lambda row, column, cell: STATUS_COLORS.get(cell) if column == 1 else None,
    )
    if len(records) > limit:
        click.secho(f"{len(records) - limit:,} older: -n shows more", dim=True, err=True)


def _last_values(record: RunRecord) -> dict[str, dict[str, Any]]:
    """The last point's values by type, without those of the machine."""
    from t9k.em.runs.follow import last_point
    from t9k.em.runs.record import SYSTEM

    found: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(OSError):  # a list goes on beyond files that cannot be read
        for kind in record.kinds():
            if kind != SYSTEM and (point := last_point(record.metrics_path(kind))):
                found[kind] = point["metrics"]
    return found


def _metrics_text(values: dict[str, dict[str, Any]]) -> str:
    texts = [
        f"{kind}/{name} {number_text(value)}"
        for kind, metrics in values.items()
        for name, value in metrics.items()
        if isinstance(value, int | float)
    ]
    more = f"  +{len(texts) - _MAX_METRICS}" if len(texts) > _MAX_METRICS else ""
    return "  ".join(texts[:_MAX_METRICS]) + more


def _as_json(record: RunRecord) -> dict[str, Any]:
    return {
        "name": record.text("name"),
        "alternative_name": record.name,
        "status": record.status,
        "labels": record.labels,
        "description": record.text("description"),
        "start_timestamp": record.text("start_timestamp"),
        "end_timestamp": record.text("end_timestamp"),
        "duration_s": record.duration_s,
        "last_metrics": _last_values(record),
        "local": record.path,
    }

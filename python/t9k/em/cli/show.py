"""`em show`."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from t9k.em.cli.console import (
    STATUS_COLORS,
    count_text,
    duration_text,
    echo_json,
    echo_table,
    is_drawable,
    moment_text,
    number_text,
)
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable
from t9k.em.progress import size_text

if TYPE_CHECKING:
    from t9k.em.runs.record import ReadPoints, RunRecord

_SPARK_COLUMNS = 24
_MAX_ENTRIES = 20


@click.command("show", cls=Verb, examples=["em show mnist_261123_101500_a1b2c3", "em show checkpoints --json"])
@click.argument("name", metavar="RUN|ARTIFACT")
@json_option
def command(name: str, as_json: bool) -> None:
    """Show a run or an artifact.

    A run: its parameters, the last and best values and the course of each metric, inputs and outputs. An
    artifact: its version, the runs that made or read it, and its entries. It is named by its directory, its
    alternative name, its name if no other has it, or the beginning of one.
    """
    from t9k.em.artifact import METADATA
    from t9k.em.cli.places import artifact_dir, run_record
    from t9k.em.errors import NotFoundError

    try:
        record = run_record(name)
    except NotFoundError as error:
        path = artifact_dir(name)
        if not os.path.isfile(os.path.join(path, METADATA)):
            raise NotFoundError(
                f"there is no run and no artifact {name!r}", hint="em runs and em ls list them"
            ) from error
        _show_artifact(path, as_json)
    else:
        _show_run(record, as_json)


def _show_run(record: RunRecord, as_json: bool) -> None:
    from t9k.em.artifact import artifact_parent_dir
    from t9k.em.cli.reading import shown_reading
    from t9k.em.notebook import flatten

    with shown_reading([record]) as read:
        metrics = _metric_rows(record, read)
    if as_json:
        echo_json(record.to_dict() | {"local": record.path, "duration_s": record.duration_s, "metrics": metrics})
        return
    click.secho(printable(record.name), bold=True)
    _echo_fields(
        [
            ("state", click.style(printable(record.status), fg=STATUS_COLORS.get(record.status))),
            ("started", f"{moment_text(record.started_s)}, {duration_text(record.duration_s)}"),
            ("labels", printable(", ".join(record.labels))),
            ("description", printable(record.text("description"))),
            ("lost", _lost_text(record.metadata.get("lost_log_lines"))),
            ("directory", printable(record.path)),
        ]
    )
    _echo_section("parameters", [(key, _value_text(value)) for key, value in flatten(record.hparams)])
    if metrics:
        click.echo()
        header = ["metric", "last", "best", "at step", "points", "course"]
        rows = [
            [
                f"{row['type']}/{row['name']}",
                number_text(row["last"]),
                "" if row["best"] is None else number_text(row["best"]),
                "" if row["best_step"] is None else number_text(row["best_step"]),
                str(row["points"]),
                row["spark"],
            ]
            for row in metrics
        ]
        echo_table(header, rows, right={1, 2, 3, 4})
    parent = os.path.join(os.path.abspath(artifact_parent_dir()), "")
    for side in ("inputs", "outputs"):
        marks = record.associations(side)
        _echo_section(side, [(str(mark.get("type", "")), _mark_text(mark, parent)) for mark in marks])
    if error := record.text("error"):
        click.echo("\nerror")
        for line in error.splitlines():
            click.secho(f"  {printable(line)}", fg="red")


def _metric_rows(record: RunRecord, read: ReadPoints) -> list[dict[str, Any]]:
    from t9k.em.runs.summary import goal, metric_series, sparkline

    rows = []
    for kind in record.kinds():
        for name, series in metric_series(read(record, kind)).items():
            if not series.values:
                continue
            best = series.best(goal(name))
            rows.append(
                {
                    "type": kind,
                    "name": name,
                    "points": len(series.values),
                    "last": series.values[-1],
                    "last_step": _whole(series.steps[-1]),
                    "best": best and best[0],
                    "best_step": best and _whole(best[1]),
                    "spark": sparkline(series.averages(_SPARK_COLUMNS), is_ascii=not is_drawable()),
                }
            )
    return rows


def _whole(step: float) -> int | None:
    return int(step) if abs(step) < 2**53 else None


def _lost_text(lines: object) -> str:
    return f"{count_text(lines, 'log call')} that a full disk did not take" if isinstance(lines, int) and lines else ""


def _mark_text(mark: dict[str, Any], parent: str) -> str:
    """Its name, and its directory if that is not where its name tells."""
    is_told = mark.get("local") in (None, "", f"{parent}{mark.get('name')}")
    local = "" if is_told else f"  {mark['local']}"
    return f"{mark.get('name', '')}{local}"


def _value_text(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _echo_fields(fields: Iterable[tuple[str, str]]) -> None:
    for key, value in fields:
        if value:
            click.echo(f"{click.style(f'{key:<12}', dim=True)}{value}")


def _echo_section(title: str, rows: list[tuple[str, str]]) -> None:
    if not rows:
        return
    click.secho(f"\n{title}", dim=True)
    columns = max(len(printable(key)) for key, _ in rows)
    for key, value in rows:
        click.echo(f"  {printable(key):<{columns}}  {printable(value)}")


def _show_artifact(path: str, as_json: bool) -> None:
    from t9k import em
    from t9k.em import _engine
    from t9k.em.errors import translated
    from t9k.em.origins import marks_of
    from t9k.em.runs.record import find_records, run_parent_dir

    artifact = em.load_artifact(path)
    with translated():
        digest = _engine.manifest_digest(artifact.local)
    runs, _ = find_records(run_parent_dir())
    marks = marks_of(runs).get(os.path.basename(artifact.local), ())
    if as_json:
        runs_known = [{"side": mark.side, "run": mark.run.path, "status": mark.run.status} for mark in marks]
        echo_json(artifact.describe() | {"digest": digest, "runs": runs_known})
        return
    count = files = size_bytes = 0
    rows = []
    for entry_path, entry in artifact.entries():
        count += 1
        if "size" in entry:
            files += 1
            size_bytes += entry["size"]
        if count <= _MAX_ENTRIES:
            rows.append((entry_path, _entry_text(entry)))
    click.secho(printable(artifact.alternative_name or artifact.name), bold=True)
    _echo_fields(
        [
            ("version", digest),
            ("created", printable(artifact.created_timestamp)),
            ("labels", printable(", ".join(artifact.labels))),
            ("description", printable(artifact.description)),
            ("directory", printable(artifact.local)),
            ("content", f"{count_text(files, 'file')}, {size_text(size_bytes)}"),
        ]
    )
    _echo_section("runs", [(f"{mark.side} of", mark.run.name) for mark in marks])
    _echo_section("entries", rows)
    if count > _MAX_ENTRIES:
        click.echo(f"  … {count - _MAX_ENTRIES:,} more: em ls")


def _entry_text(entry: dict[str, Any]) -> str:
    return entry.get("uri") or (size_text(entry["size"]) if "size" in entry else entry["type"])

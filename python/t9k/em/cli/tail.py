"""`em tail`."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import click

from t9k.em.cli.console import STATUS_COLORS, duration_text, echo_json, number_text
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable

if TYPE_CHECKING:
    from t9k.em.runs.follow import GrowingFile
    from t9k.em.runs.record import RunRecord

_Line = tuple[str, dict[str, Any]]
"""One line for people and the same for programs."""

POLL_S = 0.2
_STATUS_EVERY_S = 1.0
_TAIL_BYTES = 64 << 10
_SGR = re.compile(r"\x1b\[[0-9;:]*m")


@click.command(
    "tail",
    cls=Verb,
    examples=["em tail", "em tail mnist_261123_101500_a1b2c3 -n 100"],
    exit_codes="0 the run is Complete, 1 it is Failed or Crashed, or an error, 2 a wrong call, 130 interrupted",
)
@click.argument("run", required=False)
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="Past lines to begin with."
)
@click.option("--system", is_flag=True, help="Also what the machine does.")
@json_option
def command(run: str | None, lines: int, system: bool, as_json: bool) -> None:
    """Follow a live run, by default the newest: print its output and metrics until it ends.

    A run that has ended shows its last lines. With --json each line is a JSON document.
    """
    from t9k.em.cli.places import newest_run, run_record

    record = newest_run() if run is None else run_record(run)
    if not as_json:
        click.secho(f"{printable(record.name)}: {printable(record.status)}", dim=True, err=True)
    status = _follow(record, lines, system, as_json)
    if as_json:
        echo_json({"status": status.status})
    else:
        ended = f"{printable(status.status)} after {duration_text(status.duration_s)}"
        click.secho(ended, fg=STATUS_COLORS.get(status.status), err=True)
    sys.exit(0 if status.status == "Complete" else 1)


def _follow(record: RunRecord, past_lines: int, with_system: bool, as_json: bool) -> RunRecord:
    """Prints until the run has ended and everything is read; returns its last record."""
    from t9k.em.runs.follow import GrowingFile
    from t9k.em.runs.record import SYSTEM, read_record

    log = GrowingFile(os.path.join(record.path, "stdout.log"), _TAIL_BYTES)
    metrics: dict[str, GrowingFile] = {}
    next_status = 0.0
    is_first = True
    while True:
        # Asked before the files are read: what an ended run wrote is there by then.
        if time.monotonic() >= next_status:
            record = read_record(record.path)
            next_status = time.monotonic() + _STATUS_EVERY_S
        ended = record.status != "Running"
        for kind in record.kinds():
            if kind not in metrics and (with_system or kind != SYSTEM):
                metrics[kind] = GrowingFile(record.metrics_path(kind), _TAIL_BYTES if is_first else None)
        output, points = list(_output_lines(log.read_lines())), _metric_lines(metrics)
        if is_first:
            output, points = (part[max(0, len(part) - past_lines) :] for part in (output, points))
        if ended and not is_first and not output and not points:
            _echo(_output_lines(log.read_rest()), as_json)
            return record
        _echo([*output, *points], as_json)
        if not output and not points and not ended:
            time.sleep(POLL_S)
        is_first = False


def _echo(lines: Iterable[_Line], as_json: bool) -> None:
    for text, document in lines:
        if as_json:
            echo_json(document)
        else:
            click.echo(text)


def _output_lines(data: bytes) -> Iterator[_Line]:
    lines = data.decode(errors="replace").split("\n")
    if not lines[-1]:
        lines.pop()
    for line in lines:
        yield printable(_SGR.sub("", line).expandtabs()), {"log": line}


def _metric_lines(files: dict[str, GrowingFile]) -> list[_Line]:
    """New points of all types, in the order of their time."""
    from t9k.em.runs.follow import points_of

    points = [(kind, point) for kind, file in files.items() for point in points_of(file.read_lines())]
    points.sort(key=lambda kind_and_point: str(kind_and_point[1]["at"].get("timestamp", "")))
    return [(_point_text(kind, point), {"type": kind, **point}) for kind, point in points]


def _point_text(kind: str, point: dict[str, dict[str, Any]]) -> str:
    at = point["at"]
    where = f"step {at.get('step', '-')}" + (f" epoch {at['epoch']}" if "epoch" in at else "")
    values = "  ".join(
        f"{name} {number_text(value) if isinstance(value, int | float) else value}"
        for name, value in point["metrics"].items()
    )
    return f"{click.style(printable(f'{kind} {where}'), fg='blue')}  {printable(values)}"

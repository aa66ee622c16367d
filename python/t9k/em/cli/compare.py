"""`em compare`."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from t9k.em.cli.console import clip, count_text, echo_json, echo_table, is_terminal, number_text, width
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable

if TYPE_CHECKING:
    from t9k.em.runs.comparison import Comparison

_BEST = "*"
_MIN_VALUE_COLUMNS = 8


@click.command(
    "compare", cls=Verb, examples=["em compare mnist_261123_1015 mnist_261123_1130", "em compare a b c --json"]
)
@click.argument("runs", nargs=-1, required=True)
@json_option
def command(runs: tuple[str, ...], as_json: bool) -> None:
    """Show what differs between runs: state, labels, commit, parameters, last and best values.

    The best value of all runs has a * behind it, where the metric's name tells which way is better (loss, accuracy).
    """
    from t9k.em.cli.places import run_record
    from t9k.em.cli.reading import shown_reading
    from t9k.em.runs.comparison import compare_runs

    if len(runs) < 2:
        raise click.UsageError("name two or more runs")
    records = [run_record(run) for run in runs]
    with shown_reading(records) as read:
        found = compare_runs(records, read)
    if as_json:
        echo_json(asdict(found))
        return
    rows = _rows(found)
    names = _fitted(rows, found.names) if is_terminal() else found.names
    echo_table(
        ["", *names],
        rows,
        colors=lambda row, column, cell: "green" if column and cell.endswith(_BEST) else None,
    )
    if found.equal_params:
        click.secho(f"{count_text(found.equal_params, 'parameter')} equal in all", dim=True)


def _rows(found: Comparison) -> list[list[str]]:
    rows = [[key, *map(_value_text, values)] for key, values in found.fields.items()]
    for metric in found.metrics:
        name = f"{metric.kind}/{metric.name}"
        rows.append([f"{name} last", *map(_value_text, metric.last)])
        if any(value is not None for value in metric.best):
            marked = [
                _value_text(value) + (_BEST if index in metric.winners else "")
                for index, value in enumerate(metric.best)
            ]
            rows.append([f"{name} best", *marked])
    return rows


def _fitted(rows: list[list[str]], names: list[str]) -> list[str]:
    """Clips long values so that the terminal shows all runs, and returns their names, or numbers that it explains."""
    room = shutil.get_terminal_size().columns - 1 - max(width(printable(row[0])) for row in [[""], *rows])
    columns = max(room // len(names) - 2, _MIN_VALUE_COLUMNS)
    for row in rows:
        row[1:] = [clip(printable(cell), columns) for cell in row[1:]]
    if all(width(printable(name)) <= columns for name in names):
        return names
    for number, name in enumerate(names, 1):
        click.echo(f"{click.style(str(number), dim=True)}  {printable(name)}")
    click.echo()
    return [str(number) for number, _ in enumerate(names, 1)]


def _value_text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return number_text(value)
    return value if isinstance(value, str) else repr(value)

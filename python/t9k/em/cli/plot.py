"""`em plot`."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

import click

from t9k.em.cli.console import is_drawable, number_text
from t9k.em.cli.output_file import replaced
from t9k.em.cli.verb import Verb
from t9k.em.escape import printable

if TYPE_CHECKING:
    from t9k.em.runs.curves import Curve

_X_LABELS = {"step": "step", "time": "seconds since the start"}
_MAX_ROWS = 24


@click.command(
    "plot",
    cls=Verb,
    examples=[
        "em plot mnist_261123_1015 --metric train/loss --log",
        "em plot mnist_261123_1015 mnist_261123_1130 --metric loss -o loss.svg",
    ],
)
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--metric", "metrics", multiple=True, required=True, help="`type/name`, or a name in all types; repeatable."
)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help="File that ends in .svg, or .png (needs matplotlib)."
)
@click.option(
    "--x", type=click.Choice(list(_X_LABELS)), default="step", show_default=True, help="What the x axis shows."
)
@click.option("--log", "is_log", is_flag=True, help="Logarithmic y axis.")
def command(runs: tuple[str, ...], metrics: tuple[str, ...], output: str | None, x: str, is_log: bool) -> None:
    """Plot metrics of runs, in the terminal or to a file."""
    from t9k.em.cli.places import run_record
    from t9k.em.cli.reading import shown_reading
    from t9k.em.runs.curves import find_curves

    suffix = os.path.splitext(output or "")[1].lower()
    if output is not None and suffix not in (".svg", ".png"):
        raise click.UsageError(f"{output!r} ends neither in .svg nor in .png")
    records = [run_record(run) for run in dict.fromkeys(runs)]
    with shown_reading(records) as read:
        curves = find_curves(records, list(dict.fromkeys(metrics)), x, read)
    if output is None:
        _show(curves, _X_LABELS[x], is_log)
        return
    with replaced(output) as temporary:
        if suffix == ".png":
            from t9k.em.runs.plot_png import plot_png

            plot_png(curves, _X_LABELS[x], temporary, is_log=is_log)
        else:
            from t9k.em.runs.plot_svg import plot_svg

            with open(temporary, "x", encoding="utf-8") as file:
                file.write(plot_svg(curves, _X_LABELS[x], is_log=is_log))


def _show(curves: list[Curve], x_label: str, is_log: bool) -> None:
    from t9k.em.runs.plot_terminal import COLORS, plot_lines

    columns, rows = shutil.get_terminal_size() if sys.stdout.isatty() else (80, _MAX_ROWS)
    is_ascii = not is_drawable()
    lines = plot_lines(
        curves,
        columns - 1,
        min(_MAX_ROWS, rows - len(curves) - 2),
        is_log=is_log,
        is_ascii=is_ascii,
        style=lambda text, color: click.style(text, fg=color),
    )
    for line in lines:
        click.echo(line)
    click.echo(f"{x_label:>{columns - 1}}")
    for index, curve in enumerate(curves):
        mark = chr(ord("a") + index % 26) if is_ascii else "──"
        last = f"  {number_text(curve.y[-1])}" if curve.y else ""
        click.echo(click.style(mark, fg=COLORS[index % len(COLORS)]) + f" {printable(curve.label)}{last}")

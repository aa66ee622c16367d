"""`em export`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import click

from t9k.em.cli.output_file import replaced
from t9k.em.cli.verb import Verb
from t9k.em.escape import printable

if TYPE_CHECKING:
    from t9k.em.progress import Progress
    from t9k.em.runs.selection import Selection

_TEXT_FORMATS = ("csv", "json")


@click.command(
    "export",
    cls=Verb,
    examples=[
        "em export mnist_261123_1015 --format csv > mnist.csv",
        "em export mnist_261123_1015 mnist_261123_1130 --format parquet -o mnist.parquet",
        "em export mnist_261123_1015 --format tensorboard -o logs/",
    ],
)
@click.argument("runs", nargs=-1, required=True)
@click.option(
    "--format",
    "form",
    type=click.Choice([*_TEXT_FORMATS, "parquet", "tensorboard"]),
    required=True,
    help="parquet needs the package pyarrow, tensorboard the package tensorboard.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="File, or a directory for tensorboard; csv and json go to standard output without it.",
)
@click.option(
    "--type", "kinds", multiple=True, metavar="TYPE", help="Only this type of metrics; by default all but `system`."
)
def command(runs: tuple[str, ...], form: str, output: str | None, kinds: tuple[str, ...]) -> None:
    """Write the metrics of runs as CSV, Parquet, JSON or TensorBoard event files.

    CSV and Parquet have a row for each log call, with the columns run, type, step, epoch, timestamp and one for
    each metric. JSON has parameters, platform and git too. A million points take no more memory than the
    largest type of one run. A file that is there is replaced when the new one is complete.
    """
    from t9k.em.cli.places import run_record
    from t9k.em.progress import Progress
    from t9k.em.runs.selection import Selection

    if output is None and form not in _TEXT_FORMATS:
        raise click.UsageError(f"--format {form} needs -o")
    records = [run_record(run) for run in dict.fromkeys(runs)]
    with Progress("export") as progress:
        _export(Selection(records, kinds, progress), form, output, progress)


def _export(selection: Selection, form: str, output: str | None, progress: Progress) -> None:
    if form == "tensorboard":
        from t9k.em.runs.export_tensorboard import write_tensorboard

        write_tensorboard(selection, str(output))
    elif form == "parquet":
        from t9k.em.runs.export_parquet import write_parquet

        with replaced(str(output)) as temporary:
            write_parquet(selection, temporary)
    else:
        from t9k.em.runs.export_csv import write_csv
        from t9k.em.runs.export_json import write_json

        with _text_output(output, progress) as file:
            (write_csv if form == "csv" else write_json)(selection, file)


class _Terminal:
    """Escapes what could control the terminal, and keeps a bar out of the text."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def write(self, text: str) -> int:
        self._progress.clear()
        click.echo("\n".join(map(printable, text.split("\n"))), nl=False)
        return len(text)


@contextlib.contextmanager
def _text_output(path: str | None, progress: Progress) -> Iterator[IO[str]]:
    if path is None:
        yield _Terminal(progress) if sys.stdout.isatty() else sys.stdout  # type: ignore[misc]
        return
    with replaced(path) as temporary, open(temporary, "x", encoding="utf-8", newline="") as file:
        yield file

"""`em import`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from t9k.em.cli.console import count_text, echo_json
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable

if TYPE_CHECKING:
    from t9k.em.progress import Progress
    from t9k.em.runs.imported import Outcome


@click.command("import", cls=Verb, examples=["em import tensorboard logs/", "em import mlflow mlruns/"])
@click.argument("tool", type=click.Choice(["tensorboard", "mlflow"]))
@click.argument("directory", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@json_option
def command(tool: str, directory: str, as_json: bool) -> None:
    """Make runs of what TensorBoard or mlflow recorded, with the original times.

    TensorBoard: scalars and hyperparameters of each directory with event files; needs the package tensorboard.
    mlflow: parameters, metrics, tags and artifacts of a file store, or of an mlflow.db in DIR.

    A metric `val/loss` is loss of type val, one without a slash is of type train. Nothing is overwritten: what was
    imported before is left alone.
    """
    from t9k.em.progress import Progress

    done = []
    with Progress("import") as progress:
        for outcome in _outcomes(tool, directory, progress):
            done.append(outcome)
            if not as_json:
                progress.clear()
                click.echo(printable(outcome.path) + ("" if outcome.is_new else " is there already"))
                for note in outcome.notes:
                    click.echo(f"Warning: {printable(outcome.path)}: {note}", err=True)
    if as_json:
        echo_json([asdict(outcome) for outcome in done])
        return
    new = sum(outcome.is_new for outcome in done)
    click.echo(f"{count_text(new, 'run')} imported, {len(done) - new} there already")


def _outcomes(tool: str, directory: str, progress: Progress) -> Iterator[Outcome]:
    from t9k.em.runs.record import run_parent_dir

    if tool == "mlflow":
        from t9k.em.runs.import_mlflow import import_mlflow

        return import_mlflow(directory, run_parent_dir())
    from t9k.em.runs.import_tensorboard import import_event_files

    return import_event_files(directory, run_parent_dir(), progress)

"""`em upload`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from t9k.em.cli.console import echo_json, exact_size_text
from t9k.em.cli.verb import RESUMABLE, Verb, json_option
from t9k.em.escape import printable
from t9k.em.progress import size_text
from t9k.em.transfer.progress import Report
from t9k.protocol import CONFLICT_STRATEGIES

if TYPE_CHECKING:
    from t9k.em.transfer.paths import Done


@click.command(
    "upload",
    cls=Verb,
    examples=[
        "em upload .em/runs/mnist_260101_120000_a1b2c3",
        "em upload .em/artifacts --folder checkpoints --make-folder --conflict skip",
        "em upload .em/artifacts --dry-run",
    ],
    exit_codes="0 all are uploaded or skipped, 1 at least one failed, 2 a wrong call",
    interrupted=RESUMABLE,
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--folder", default="default", show_default=True, help="Folder of the server; without `/` one of yours.")
@click.option("--make-folder", is_flag=True, help="Make the folder and those above it.")
@click.option(
    "--conflict",
    type=click.Choice(CONFLICT_STRATEGIES),
    default="new",
    show_default=True,
    help="What to do with a taken name: `new` uses the alternative name.",
)
@click.option("--dry-run", is_flag=True, help="Print what would be sent, exactly, and send nothing.")
@json_option
def command(
    paths: tuple[str, ...], folder: str, make_folder: bool, conflict: str, dry_run: bool, as_json: bool
) -> None:
    """Upload runs and artifacts, or all that lie directly in a directory.

    Only chunks that the server lacks are sent. What was interrupted goes on where it was, when called again.
    """
    from t9k.em.client.connection import connected
    from t9k.em.client.placement import Target
    from t9k.em.transfer.paths import find_directories, upload_directories, weigh_directories

    target = Target(folder, make_folder, conflict)
    directories = list(dict.fromkeys(directory for path in paths for directory in find_directories(path)))
    session = connected()
    done = (weigh_directories if dry_run else upload_directories)(session, directories, target)
    if as_json:
        echo_json([_document(one) for one in done])
    else:
        for one in done:
            click.echo(_line(one, dry_run), err=one.error is not None)
        if len(done) > 1:
            failed = sum(one.error is not None for one in done)
            all_of_them = Report()
            for one in done:
                all_of_them += one.report or Report()
            verb = "weighed" if dry_run else "done"
            click.echo(
                f"{len(done) - failed} of {len(done)} {verb}, {failed} failed; {_counts(all_of_them, is_exact=dry_run)}"
            )
    if any(one.error is not None for one in done):
        raise click.exceptions.Exit(1)


def _document(one: Done) -> dict[str, Any]:
    counts = asdict(one.report) if one.report is not None else {}
    error = {"error": str(one.error), "kind": one.error.kind} if one.error is not None else {}
    return {"local": one.local, "path": one.path, "created": one.is_created, **counts, **error}


def _line(one: Done, is_dry: bool) -> str:
    if one.error is not None:
        return f"{printable(one.local)}: {printable(str(one.error))}"
    if not one.is_created:
        return f"{printable(one.local)}: {'would be ' if is_dry else ''}skipped, {printable(one.path)} is there"
    where = f"{'would become ' if is_dry else ''}{printable(one.path)}"
    return f"{printable(one.local)}: {where}: {_counts(one.report or Report(), is_exact=is_dry)}"


def _counts(report: Report, *, is_exact: bool) -> str:
    text = exact_size_text if is_exact else size_text
    return (
        f"{text(report.new_bytes)} new, {text(report.packed_bytes)} packed, {text(report.shared_bytes)} shared, "
        f"{text(report.record_bytes)} of manifests and records"
    )

"""`em origin`."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

import click

from t9k.em.cli.console import echo_json, moment_text
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable

if TYPE_CHECKING:
    from t9k.em.origins import Origin

_DIGEST = re.compile(r"[0-9a-f]{64}")


@click.command(
    "origin",
    cls=Verb,
    examples=["em origin model.safetensors", "em origin checkpoints/ --json"],
    exit_codes="0 all were found, 1 one is in no local artifact, or an error, 2 a wrong call",
)
@click.argument("files", metavar="FILE|DIGEST...", nargs=-1, required=True)
@json_option
def command(files: tuple[str, ...], as_json: bool) -> None:
    """Show which artifacts hold a file's bytes, and which runs made or read these artifacts.

    A file is known by its bytes, wherever it was copied to and however it is named now. All files below a
    directory are looked for; a digest is what `em hash` prints.
    """
    from t9k.em.cli.places import artifact_dirs
    from t9k.em.origins import find_origins
    from t9k.em.runs.record import find_records, run_parent_dir

    named = _named(files)
    runs, problems = find_records(run_parent_dir())
    for problem in problems:
        click.echo(f"Warning: {printable(problem)}", err=True)
    origins = find_origins({digest for _, digest in named}, artifact_dirs(), runs)
    if as_json:
        echo_json([_as_dict(name, digest, origins[digest]) for name, digest in named])
    for name, digest in () if as_json else named:
        _echo(name, digest, origins[digest])
    if not all(origins.values()):
        raise click.exceptions.Exit(1)


def _named(files: tuple[str, ...]) -> list[tuple[str, str]]:
    """What is looked for, and its digest."""
    from t9k.em.cli.digests import digests
    from t9k.em.errors import NotFoundError

    named: list[tuple[str, str]] = []
    for file in files:
        if os.path.exists(file):
            named.extend(digests([file]))
        elif _DIGEST.fullmatch(file):
            named.append((file, file))
        else:
            raise NotFoundError(f"there is no file {file}")
    return named


def _as_dict(name: str, digest: str, origins: list[Origin]) -> dict[str, Any]:
    return {
        "name": name,
        "digest": digest,
        "artifacts": [
            {
                "artifact": origin.artifact,
                "paths": origin.paths,
                "runs": [{"side": mark.side, "run": mark.run.path, "status": mark.run.status} for mark in origin.marks],
            }
            for origin in origins
        ],
    }


def _echo(name: str, digest: str, origins: list[Origin]) -> None:
    click.echo(
        click.style(printable(name), bold=True) + ("" if name == digest else click.style(f"  {digest}", dim=True))
    )
    for origin in origins:
        artifact = printable(os.path.basename(origin.artifact))
        for path in origin.paths:
            click.echo(f"  {artifact}: {printable(path)}")
        for mark in origin.marks:
            click.echo(f"    {mark.side} of {printable(mark.run.name)}, {moment_text(mark.run.started_s)}")
        if not origin.marks:
            click.echo("    of no run here")
    if not origins:
        click.echo("  in no local artifact")

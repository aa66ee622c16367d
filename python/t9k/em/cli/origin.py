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
    from t9k.em.transfer.origins import ServerOrigin

_DIGEST = re.compile(r"[0-9a-f]{64}")
_Found = tuple["list[ServerOrigin]", bool]


@click.command(
    "origin",
    cls=Verb,
    examples=["em origin model.safetensors", "em origin checkpoints/ --json"],
    exit_codes="0 all were found, 1 one is nowhere, or an error, 2 a wrong call",
)
@click.argument("files", metavar="FILE|DIGEST...", nargs=-1, required=True)
@click.option("--local", is_flag=True, help="Do not ask the server.")
@json_option
def command(files: tuple[str, ...], local: bool, as_json: bool) -> None:
    """Show which artifacts hold a file's bytes, and which runs made or read these artifacts.

    A file is known by its bytes, wherever it was copied to and however it is named now. All files below a
    directory are looked for; a digest is what `em hash` prints. For what no run here has marked the server is
    asked as well, if you are logged in to one; it knows which runs made or read an artifact, not which version of it.
    """
    from t9k.em.cli.places import artifact_dirs
    from t9k.em.origins import find_origins
    from t9k.em.runs.record import find_records, run_parent_dir

    named = _named(files)
    runs, problems = find_records(run_parent_dir())
    for problem in problems:
        click.echo(f"Warning: {printable(problem)}", err=True)
    origins, errors = find_origins(dict.fromkeys(digest for _, digest in named), artifact_dirs(), runs)
    for error in errors:
        click.echo(f"Warning: {printable(str(error))}", err=True)
    open_questions = [digest for digest, found in origins.items() if not any(origin.marks for origin in found)]
    there = {} if local else _on_server(open_questions)
    if as_json:
        echo_json([_as_dict(name, digest, origins[digest], there.get(digest)) for name, digest in named])
    for name, digest in () if as_json else named:
        _echo(name, digest, origins[digest], there.get(digest))
    if not all(found or there.get(digest, ([], False))[0] for digest, found in origins.items()):
        raise click.exceptions.Exit(1)


def _named(files: tuple[str, ...]) -> list[tuple[str, str]]:
    """What is looked for, and its digest."""
    from t9k.em.cli.digests import digests
    from t9k.em.errors import NotFoundError
    from t9k.em.progress import Progress

    there = [file for file in files if os.path.exists(file)]
    given = [file for file in files if file not in there]
    for file in given:
        if not _DIGEST.fullmatch(file):
            raise NotFoundError(f"there is no file {file}")
    with Progress("hash") as progress:
        return [*digests(there, progress), *((digest, digest) for digest in given)]


def _on_server(digests: list[str]) -> dict[str, _Found]:
    """What the server says of some objects, by digest; with a warning, what it said until it could not be asked."""
    from t9k.em.client.connection import connected, is_configured
    from t9k.em.errors import EmError
    from t9k.em.transfer.origins import find_on_server

    if not digests or not is_configured():
        return {}
    there: dict[str, _Found] = {}
    try:
        for digest, found in find_on_server(connected(), digests):
            there[digest] = found
    except EmError as error:
        click.echo(f"Warning: {printable(str(error))}", err=True)
    return there


def _as_dict(name: str, digest: str, origins: list[Origin], there: _Found | None) -> dict[str, Any]:
    found: dict[str, Any] = {
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
    if there is not None:
        found["server"] = [
            {
                "artifact": origin.artifact,
                "paths": origin.paths,
                "runs": [{"side": side, "run": run} for side, run in origin.marks],
            }
            for origin in there[0]
        ]
        found["server_has_more"] = there[1]
    return found


def _echo(name: str, digest: str, origins: list[Origin], there: _Found | None) -> None:
    click.echo(
        click.style(printable(name), bold=True) + ("" if name == digest else click.style(f"  {digest}", dim=True))
    )
    for origin in origins:
        marks = [f"{mark.side} of {mark.run.name}, {moment_text(mark.run.started_s)}" for mark in origin.marks]
        _echo_one(os.path.basename(origin.artifact), origin.paths, marks, "of no run here")
    found, has_more = there or ([], False)
    for origin_there in found:
        marks = [f"{side} of {run}" for side, run in origin_there.marks]
        _echo_one(origin_there.artifact, origin_there.paths, marks, "of no run there that you may see")
    if has_more:
        click.echo("  and more on the server")
    if not origins and not found:
        click.echo("  in no local artifact" + ("" if there is None else ", and in none on the server that you may see"))


def _echo_one(artifact: str, paths: list[str], marks: list[str], without: str) -> None:
    for path in paths:
        click.echo(f"  {printable(artifact)}: {printable(path)}")
    for mark in marks or [without]:
        click.echo(f"    {printable(mark)}")

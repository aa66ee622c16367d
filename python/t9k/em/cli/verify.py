"""`em verify`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from t9k.em.cli.console import count_text, echo_json
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable


@click.command(
    "verify",
    cls=Verb,
    examples=["em verify", "em verify checkpoints_261123_101500_a1b2c3"],
    exit_codes="0 all is well, 1 a problem was found, or an error, 2 a wrong call",
)
@click.argument("artifact", required=False)
@click.option("--store", is_flag=True, help="The whole store, which is the default.")
@json_option
def command(artifact: str | None, store: bool, as_json: bool) -> None:
    """Hash every file of an artifact, or of the whole store, and report what is wrong."""
    from t9k.em import _engine
    from t9k.em.artifact import store_dir
    from t9k.em.cli.places import artifact_dir
    from t9k.em.errors import translated
    from t9k.em.progress import Progress

    if artifact and store:
        raise click.UsageError("an artifact and --store exclude each other")
    with translated(), Progress("verify") as progress:
        report: dict[str, Any] = _engine.verify(store_dir(), artifact_dir(artifact) if artifact else None, progress)
    problems = report["problems"]
    held = _held(problems)
    if as_json:
        for problem in problems:
            problem["files"] = held.get(problem["path"], [])
        echo_json(report)
    else:
        for problem in problems:
            click.echo(f"{click.style(problem['kind'], fg='red')}: {printable(problem['path'])}")
            for file in held.get(problem["path"], ()):
                click.echo(f"  {printable(file)}")
        counts = count_text(report["objects"], "file"), count_text(report["bytes"], "byte")
        click.echo(f"{', '.join(counts)}, {count_text(len(problems), 'problem')}")
        if held:
            click.echo("`add_file` of the original to an artifact mends its file, and the object", err=True)
    sys.exit(1 if problems else 0)


def _held(problems: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The files of local artifacts that damaged objects of the store are, by the paths of the objects."""
    from t9k.em.cli.places import artifact_dirs
    from t9k.em.errors import EmError
    from t9k.em.origins import find_origins

    objects: dict[str, str] = {}
    for problem in problems:
        parts = Path(problem["path"]).parts[-3:]
        if problem["kind"] == "damaged" and parts[0] == "objects":
            objects["".join(parts[1:])] = problem["path"]
    held: dict[str, list[str]] = {path: [] for path in objects.values()}
    for artifact in artifact_dirs() if objects else ():
        try:
            origins = find_origins(objects, [artifact], ())
        except EmError as error:  # its manifest is damaged as well; the others' files are told
            click.echo(f"Warning: {printable(str(error))}", err=True)
            continue
        for digest, path in objects.items():
            held[path] += [f"{os.path.basename(artifact)}: {file}" for one in origins[digest] for file in one.paths]
    return held

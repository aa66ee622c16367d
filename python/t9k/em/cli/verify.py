"""`em verify`."""

from __future__ import annotations

import os
import sys
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
    if as_json:
        echo_json(report)
    else:
        held = _held(problems)
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

    objects = {}
    for problem in problems:
        folder, head, rest = ["", "", *str(problem["path"]).split(os.sep)][-3:]
        if problem["kind"] == "damaged" and folder == "objects":
            objects[problem["path"]] = head + rest
    if not objects:
        return {}
    try:
        origins = find_origins(set(objects.values()), artifact_dirs(), ())
    except EmError:  # the manifest of one is damaged as well, and is told of by itself
        return {}
    return {
        path: [f"{os.path.basename(origin.artifact)}: {file}" for origin in origins[digest] for file in origin.paths]
        for path, digest in objects.items()
    }

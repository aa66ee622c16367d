"""`em ls`."""

from __future__ import annotations

import os

import click

from t9k.em.cli.console import echo_json
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable
from t9k.em.progress import size_text


@click.command("ls", cls=Verb, examples=["em ls", "em ls checkpoints_261123_101500_a1b2c3 --json"])
@click.argument("artifact", required=False)
@json_option
def command(artifact: str | None, as_json: bool) -> None:
    """List local artifacts, or the entries of one with their sizes."""
    from t9k.em.cli.places import artifact_dirs

    if artifact is not None:
        _list_entries(artifact, as_json)
        return
    names = [os.path.basename(path) for path in artifact_dirs()]
    if as_json:
        echo_json(names)
    for name in () if as_json else names:
        click.echo(printable(name))


def _list_entries(artifact: str, as_json: bool) -> None:
    from t9k import em
    from t9k.em.cli.places import artifact_dir

    loaded = em.load_artifact(artifact_dir(artifact))
    if as_json:
        echo_json(loaded.objects)
        return
    for path, entry in loaded.entries():
        size = size_text(entry["size"]) if "size" in entry else entry["type"]
        target = f" -> {entry['uri']}" if "uri" in entry else "/" if entry["type"] == "directory" else ""
        click.echo(f"{size:>10}  {printable(path + target)}")

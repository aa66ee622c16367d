"""`em load`."""

from __future__ import annotations

import os

import click

from t9k.em.cli.console import echo_json
from t9k.em.cli.verb import RESUMABLE, Verb, json_option
from t9k.em.escape import printable


@click.command(
    "load",
    cls=Verb,
    examples=[
        "em load checkpoints/gpt",
        "em load /ada/checkpoints/gpt:best --into gpt",
        "em load checkpoints/gpt --file config.json --file tokenizer/ --into .",
    ],
    interrupted=RESUMABLE,
)
@click.argument("path")
@click.option("--into", type=click.Path(file_okay=False), help="Directory that it becomes, new or empty.")
@click.option("--file", "files", multiple=True, metavar="PATH", help="Only this file or directory of an artifact.")
@json_option
def command(path: str, into: str | None, files: tuple[str, ...], as_json: bool) -> None:
    """Load a run or an artifact from the server, and print its directory.

    Only chunks that the local store lacks are fetched, and each is verified. `name:alias` and `name@digest` are
    versions of an artifact. With --file, files go below --into (by default here) and are printed.
    """
    from t9k.em.artifact import Artifact
    from t9k.em.client.connection import connected
    from t9k.em.transfer.load import load_node

    if files:
        written = Artifact.at(path).download(into or os.curdir, files)
        if as_json:
            echo_json(written)
        for name in () if as_json else written:
            click.echo(printable(name))
        return
    loaded = load_node(connected(), path, into)
    if as_json:
        echo_json({"local": loaded.local, "name": loaded.name, "remote": loaded.remote})
    else:
        click.echo(printable(loaded.local))

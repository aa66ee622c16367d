"""`em add`."""

from __future__ import annotations

import os

import click

from t9k.em.cli.console import echo_json, is_terminal
from t9k.em.cli.escape import printable
from t9k.em.cli.verb import Verb, json_option


@click.command(
    "add", cls=Verb, examples=["em add checkpoints/ --name gpt", "em add model.bin config.json --path weights/"]
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--name", default="artifact", show_default=True, help="Name of the new artifact.")
@click.option("--path", "obj_path", help="Where the files go in the artifact; `a/` is below `a`.")
@json_option
def command(paths: tuple[str, ...], name: str, obj_path: str | None, as_json: bool) -> None:
    """Add directories and files to a new artifact, and print its directory."""
    from t9k import em

    artifact = em.create_artifact(name)
    for path in paths:
        (artifact.add_dir if os.path.isdir(path) else artifact.add_file)(path, obj_path)
    if as_json:
        echo_json(artifact.to_dict())
    else:
        click.echo(printable(artifact.local) if is_terminal() else artifact.local)

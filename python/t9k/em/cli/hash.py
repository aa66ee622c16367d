"""`em hash`."""

from __future__ import annotations

import click

from t9k.em.cli.console import echo_json
from t9k.em.cli.verb import Verb, json_option


@click.command("hash", cls=Verb, examples=["em hash checkpoints/ model.safetensors", "em hash model.bin | b3sum -c"])
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@json_option
def command(paths: tuple[str, ...], as_json: bool) -> None:
    """Print BLAKE3 digests of files, and of all files below directories, as b3sum does."""
    from t9k.em.cli.digests import digests, print_digests
    from t9k.em.progress import Progress

    if as_json:
        with Progress("hash") as progress:
            echo_json(dict(digests(paths, progress)))
    else:
        print_digests(paths)

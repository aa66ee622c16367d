"""`em hash`."""

from __future__ import annotations

import click

from t9k.em.cli.console import echo_json
from t9k.em.cli.verb import Verb, json_option


@click.command(
    "hash",
    cls=Verb,
    examples=["em hash checkpoints/ model.safetensors", "em hash model.bin | b3sum -c"],
    exit_codes="0 success, 1 a file could not be read, 2 a wrong call",
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@json_option
def command(paths: tuple[str, ...], as_json: bool) -> None:
    """Print BLAKE3 digests of files, and of all files below directories, as b3sum does.

    What cannot be read is said, and the others are hashed all the same.
    """
    from t9k.em.cli.digests import digests, failures, print_digests
    from t9k.em.progress import Progress

    if as_json:
        with Progress("hash") as progress, failures(progress) as failed:
            echo_json(dict(digests(paths, progress, failed)))
    else:
        print_digests(paths)

"""`em hash`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

import click

from t9k.em.cli.console import echo_json, printable
from t9k.em.cli.verb import Verb, json_option


@click.command("hash", cls=Verb, examples=["em hash checkpoints/ model.safetensors", "em hash model.bin | b3sum -c"])
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@json_option
def command(paths: tuple[str, ...], as_json: bool) -> None:
    """Print BLAKE3 digests of files, and of all files below directories, as b3sum does."""
    from t9k.em import _engine
    from t9k.em.errors import translated
    from t9k.em.progress import Progress

    digests = {}
    for path in _files(paths):
        with translated(), Progress("hash") as progress:
            digest = _engine.hash_file(path, progress)
        if as_json:
            digests[path] = digest
        else:
            click.echo(_line(digest, path))
    if as_json:
        echo_json(digests)


def _line(digest: str, path: str) -> str:
    """A line that `b3sum --check` reads: it knows escapes of backslash and newline by a backslash before the digest."""
    escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    mark = "" if escaped == path else "\\"
    return f"{mark}{digest}  {printable(escaped) if sys.stdout.isatty() else escaped}"


def _files(paths: Iterable[str]) -> Iterator[str]:
    """The paths, and for a directory the files below it, sorted."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for directory, directories, names in os.walk(path):
            directories.sort()
            yield from (os.path.join(directory, name) for name in sorted(names))

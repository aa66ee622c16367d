"""`em du`."""

from __future__ import annotations

import os

import click

from t9k.em.cli.console import echo_json, echo_table
from t9k.em.cli.verb import Verb, json_option
from t9k.em.progress import size_text

FIELDS = ("apparent_bytes", "stored_bytes", "unique_bytes")


@click.command("du", cls=Verb, examples=["em du", "em du checkpoints_261123_101500_a1b2c3 --json"])
@click.argument("artifacts", nargs=-1)
@json_option
def command(artifacts: tuple[str, ...], as_json: bool) -> None:
    """Show what artifacts occupy: bytes of all files, of distinct objects, and of objects no other one has."""
    from t9k.em import _engine
    from t9k.em.artifact import artifact_parent_dir, store_dir
    from t9k.em.cli.places import artifact_dir, artifact_dirs
    from t9k.em.errors import translated

    directories = [artifact_dir(artifact) for artifact in artifacts] if artifacts else artifact_dirs()
    with translated():
        sizes = _engine.usage(store_dir(), directories)
    named = list(zip([*directories, "total"], sizes, strict=True))
    if as_json:
        echo_json([{"artifact": name} | dict(zip(FIELDS, row, strict=True)) for name, row in named])
        return
    parent = os.path.join(artifact_parent_dir(), "")
    rows = [[*map(size_text, row), name.removeprefix(parent)] for name, row in named]
    echo_table(["apparent", "stored", "unique", "artifact"], rows, right={0, 1, 2})

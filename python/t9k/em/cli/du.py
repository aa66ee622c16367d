"""`em du`."""

from __future__ import annotations

import os

import click

from t9k.em.cli.console import echo_json, echo_table
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable
from t9k.em.progress import size_text

FIELDS = ("apparent_bytes", "stored_bytes", "unique_bytes", "shared_bytes")


@click.command(
    "du",
    cls=Verb,
    examples=["em du", "em du checkpoints_261123_101500_a1b2c3 --json"],
    exit_codes="0 success, 1 an artifact cannot be read, or an error, 2 a wrong call",
)
@click.argument("artifacts", nargs=-1)
@json_option
def command(artifacts: tuple[str, ...], as_json: bool) -> None:
    """Show what artifacts occupy, by default all.

    apparent: bytes of all files. stored: of distinct objects, which are unique or shared. unique: of objects that no
    other artifact here has. shared: of objects that others have too. Chunks that different objects share are not
    counted here: `em diff` does.
    """
    from t9k.em import _engine
    from t9k.em.artifact import artifact_parent_dir, store_dir
    from t9k.em.cli.places import artifact_dir, artifact_dirs, existing_store_dir
    from t9k.em.errors import translated
    from t9k.em.progress import Progress

    directories = list(dict.fromkeys(map(artifact_dir, artifacts))) if artifacts else artifact_dirs()
    told = set(map(os.path.realpath, directories))
    others = [directory for directory in artifact_dirs() if os.path.realpath(directory) not in told]
    with translated(), Progress("du", "entries read") as progress:
        # An artifact to which nothing was added may have none yet.
        store = store_dir() if directories else existing_store_dir()
        sizes, errors = _engine.usage(store, directories, others, progress)
    for error in errors:
        click.echo(f"Warning: not counted: {printable(str(error))}", err=True)
    named = zip([*directories, "total"], sizes, strict=True)
    rows = [(name, (*row, row[1] - row[2])) for name, row in named if row is not None]
    if as_json:
        echo_json([{"artifact": name} | dict(zip(FIELDS, row, strict=True)) for name, row in rows])
    else:
        parent = os.path.join(artifact_parent_dir(), "")
        cells = [[*map(size_text, row), name.removeprefix(parent)] for name, row in rows]
        echo_table(["apparent", "stored", "unique", "shared", "artifact"], cells, right={0, 1, 2, 3})
    if errors:
        raise click.exceptions.Exit(1)

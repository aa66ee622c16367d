"""`em diff`."""

from __future__ import annotations

import click

from t9k.em.cli.console import echo_json
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable
from t9k.em.progress import size_text

SIGNS = {"added": ("+", "green"), "removed": ("-", "red"), "changed": ("~", "yellow")}


@click.command("diff", cls=Verb, examples=["em diff checkpoints_261123_101500_a1b2c3 checkpoints_261123_111500_d4e5f6"])
@click.argument("first")
@click.argument("second")
@json_option
def command(first: str, second: str, as_json: bool) -> None:
    """Show what the second artifact adds (+), lacks (-) and changes (~), and how many bytes it shares."""
    from t9k.em import _engine
    from t9k.em.cli.places import artifact_dir, existing_store_dir
    from t9k.em.errors import translated
    from t9k.em.progress import Progress

    both = artifact_dir(first), artifact_dir(second)
    with translated():
        with Progress("diff", "entries") as progress:
            shared_bytes, unique_bytes = _engine.diff(existing_store_dir(), *both, progress)
        if as_json:
            paths: dict[str, list[str]] = {kind: [] for kind in SIGNS}
            for kind, path in _engine.differences(*both):
                paths[kind].append(path)
            echo_json(paths | {"shared_bytes": shared_bytes, "unique_bytes": unique_bytes})
            return
        for kind, path in _engine.differences(*both):
            sign, color = SIGNS[kind]
            click.secho(f"{sign} {printable(path)}", fg=color)
    click.echo(f"{size_text(shared_bytes)} of {size_text(unique_bytes)} shared")

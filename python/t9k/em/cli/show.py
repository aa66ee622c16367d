"""`em show`."""

from __future__ import annotations

import click

from t9k.em.cli.console import echo_json
from t9k.em.cli.verb import Verb, json_option


@click.command("show", cls=Verb, examples=["em show checkpoints_261123_101500_a1b2c3"])
@click.argument("artifact")
@json_option
def command(artifact: str, as_json: bool) -> None:
    """Show an artifact's metadata and version."""
    from t9k import em
    from t9k.em import _engine
    from t9k.em.cli.places import artifact_dir

    loaded = em.load_artifact(artifact_dir(artifact))
    echo_json(loaded.to_dict()["metadata"] | {"digest": _engine.manifest_digest(loaded.local)})

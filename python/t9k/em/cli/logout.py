"""`em logout`."""

from __future__ import annotations

import click

from t9k.em.cli.verb import Verb
from t9k.em.escape import printable


@click.command("logout", cls=Verb, examples=["em logout"])
def command() -> None:
    """Log out: remove API key and token of the current context from the configuration file."""
    from t9k.config import config_path
    from t9k.em.config_file import log_out

    is_changed = log_out(config_path())
    click.echo(f"Logged out in {printable(config_path())}" if is_changed else "Not logged in")

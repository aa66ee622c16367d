"""`em login`."""

from __future__ import annotations

import os
import sys

import click

from t9k.em.cli.verb import Verb
from t9k.em.escape import printable

MAX_STDIN_BYTES = 1 << 16


@click.command(
    "login",
    cls=Verb,
    examples=["em login --host https://example.com/t9k/aistore/server", "em login --api-key-stdin < key.txt"],
)
@click.option("--host", metavar="URL", help="URL of the AIStore server; by default the one in the configuration.")
@click.option("--api-key-stdin", is_flag=True, help="Read the API key from standard input.")
@click.option("--context", metavar="NAME", help="Context to write to, which becomes the current one.")
@click.option("--no-check", is_flag=True, help="Keep both without asking the server whether the key is right.")
def command(host: str | None, api_key_stdin: bool, context: str | None, no_check: bool) -> None:
    """Log in to a server: keep its URL and an API key in the configuration file.

    The key is read from a prompt that does not show it, from standard input, or from EM_API_KEY. The file is
    the one in T9K_CONFIG, else ~/.t9k/t9k-config.yaml; comments, unknown keys and other contexts in it are kept.
    """
    from t9k.config import config_path
    from t9k.em.config_file import log_in

    def verify(url: str, api_key: str) -> None:
        from t9k.em.client.connection import open_session

        open_session(url, api_key).close()

    url = log_in(config_path(), host, _api_key(api_key_stdin), context, None if no_check else verify)
    click.echo(f"Logged in to {printable(url)}; the API key is in {printable(config_path())}")


def _api_key(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.buffer.read(MAX_STDIN_BYTES).decode("ascii", "replace")
    if key := os.environ.get("EM_API_KEY"):
        return key
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask for the API key: use --api-key-stdin or EM_API_KEY")
    return str(click.prompt("API key", hide_input=True, err=True))

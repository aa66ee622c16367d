"""`em share`."""

from __future__ import annotations

import click

from t9k.em.cli.console import echo_json
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable


@click.command(
    "share",
    cls=Verb,
    examples=[
        "em share team --make-folder bob cyd --edit",
        "em share checkpoints/gpt group:vision",
        "em share checkpoints/gpt everybody",
        "em share checkpoints/gpt everybody --end",
    ],
)
@click.argument("path")
@click.argument("grantees", nargs=-1, metavar="[USER|group:GROUP|everybody]...")
@click.option("--edit", is_flag=True, help="They may change what lies there, too.")
@click.option("--end", is_flag=True, help="Share with them no more.")
@click.option("--make-folder", is_flag=True, help="Make the folder, and those above it, if it is missing.")
@json_option
def command(path: str, grantees: tuple[str, ...], edit: bool, end: bool, make_folder: bool, as_json: bool) -> None:
    """Let others see a folder, a run or an artifact of the server with all below it; without names, say who may.

    Everybody is whoever reaches the server, with or without a key. What is shared with you is at `/<user>/…`.
    """
    from t9k.em.client import nodes
    from t9k.em.client.connection import connected
    from t9k.em.client.placement import absolute_path
    from t9k.em.errors import NotFoundError

    if edit and end:
        raise click.UsageError("--edit gives and --end takes")
    session = connected()
    full = absolute_path(path, session.user)
    node = nodes.make_folder(session, full) if make_folder else nodes.find(session, full)
    if node is None:
        raise NotFoundError(f"there is nothing at {full}", hint="--make-folder makes a folder")
    for grantee in grantees:
        if end:
            nodes.unshare(session, node, grantee)
        else:
            nodes.share(session, node, grantee, "edit" if edit else "view")
    shares = nodes.shares(session, node)
    if as_json:
        echo_json({"path": node.path, "shares": shares})
        return
    click.echo(
        printable(f"{node.path}: " + (", ".join(f"{who} may {what}" for who, what in shares.items()) or "yours"))
    )

"""`em ls`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from t9k.em.cli.console import echo_json, echo_json_rows
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable
from t9k.em.progress import size_text

if TYPE_CHECKING:
    from t9k.em.artifact import Artifact


@click.command(
    "ls",
    cls=Verb,
    examples=["em ls", "em ls checkpoints_261123_101500_a1b2c3 --json", "em ls --server", "em ls --server /ada/team"],
)
@click.argument("artifact", metavar="[ARTIFACT|PATH]", required=False)
@click.option("--server", "is_there", is_flag=True, help="List what is at a path of the server.")
@json_option
def command(artifact: str | None, is_there: bool, as_json: bool) -> None:
    """List local artifacts, or the entries of one with their sizes.

    With --server a folder of the server, or the entries of an artifact there, of which nothing is downloaded.
    Without a path that is your own tree, and what others share with you.
    """
    from t9k.em.cli.places import artifact_dirs

    if is_there:
        _list_server(artifact, as_json)
        return
    if artifact is not None:
        _list_entries(artifact, as_json)
        return
    names = [os.path.basename(path) for path in artifact_dirs()]
    if as_json:
        echo_json(names)
    for name in () if as_json else names:
        click.echo(printable(name))


def _list_server(path: str | None, as_json: bool) -> None:
    from t9k.em.artifact import Artifact
    from t9k.em.client import nodes
    from t9k.em.client.connection import connected
    from t9k.em.client.placement import absolute_path

    session = connected()
    folder = absolute_path(path or "", session.user)
    node = nodes.find(session, folder, follow=True)
    if node is None or node.kind not in ("Folder", "Run"):  # an artifact, perhaps with `:alias` behind its name
        _echo_entries(Artifact.at(folder), as_json)
        return
    listed = list(nodes.children(session, node)) if node.kind == "Folder" else [node]
    listed += nodes.shared(session) if path is None else []
    if as_json:
        echo_json([{"kind": one.kind, "path": one.path} for one in listed])
    for one in () if as_json else listed:
        click.echo(f"{click.style(f'{one.kind:<8}', dim=True)}  {printable(one.path)}")


def _list_entries(artifact: str, as_json: bool) -> None:
    from t9k.em.artifact import load_local
    from t9k.em.cli.places import artifact_dir

    _echo_entries(load_local(artifact_dir(artifact)), as_json)


def _echo_entries(artifact: Artifact, as_json: bool) -> None:
    if as_json:
        echo_json_rows(artifact._rows())
        return
    for path, entry in artifact.entries():
        size = size_text(entry["size"]) if "size" in entry else entry["type"]
        target = f" -> {entry['uri']}" if "uri" in entry else "/" if entry["type"] == "directory" else ""
        click.echo(f"{size:>10}  {printable(path + target)}")

"""`em add`."""

from __future__ import annotations

import os
import shutil

import click

from t9k.em.cli.console import echo_json, is_terminal
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable

NOTHING_MADE = "no artifact was made. What was stored meanwhile makes the next try fast; `em gc` reclaims it"


@click.command(
    "add",
    cls=Verb,
    examples=["em add checkpoints/ --name gpt", "em add model.bin config.json --path weights/"],
    interrupted=f"Interrupted; {NOTHING_MADE}",
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--name", default="artifact", show_default=True, help="Name of the new artifact.")
@click.option("--path", "obj_path", help="Where the files go in the artifact; `a/` is below `a`.")
@click.option("-v", "--verbose", is_flag=True, help="Also say how the files came there: reflinks, hardlinks or copies.")
@json_option
def command(paths: tuple[str, ...], name: str, obj_path: str | None, verbose: bool, as_json: bool) -> None:
    """Add directories and files to a new artifact, and print its directory.

    All of them or none: when one cannot be added, no artifact is made. Without --path each goes to its own name.
    """
    from t9k import em
    from t9k.em.artifact import target_path

    targets: dict[str, str] = {}
    for path in paths:
        target = target_path(path, obj_path)
        if (other := targets.setdefault(target, path)) != path:
            more = "" if obj_path is None or obj_path.endswith("/") else "; a --path that ends in / keeps their names"
            raise click.UsageError(f"{printable(other)} and {printable(path)} would both be {printable(target)}{more}")
    if verbose:
        import logging

        logging.basicConfig(format="%(message)s")
        logging.getLogger("t9k.em").setLevel(logging.INFO)
    artifact = em.create_artifact(name)
    try:
        for path in paths:
            (artifact.add_dir if os.path.isdir(path) else artifact.add_file)(path, obj_path)
    except BaseException as error:
        shutil.rmtree(artifact.local, ignore_errors=True)
        if isinstance(error, Exception) and len(paths) > 1:
            click.echo(f"{printable(path)} cannot be added, so {NOTHING_MADE}", err=True)
        raise
    if as_json:
        echo_json(artifact.to_dict())
    else:
        click.echo(printable(artifact.local) if is_terminal() else artifact.local)

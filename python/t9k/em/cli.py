"""The `em` command.

Exit codes: 0 success, 1 an error or a problem that was found, 2 a wrong call.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import click

from t9k.em.errors import EmError


class _Group(click.Group):
    """Prints our errors as one line instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EmError as error:
            raise click.ClickException(str(error)) from None


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Content-addressed artifacts of training runs."""


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--name", default="artifact", show_default=True, help="Name of the new artifact.")
@click.option("--path", "obj_path", help="Where the files go in the artifact; `a/` is below `a`.")
@json_option
def add(paths: tuple[str, ...], name: str, obj_path: str | None, as_json: bool) -> None:
    """Add directories and files to a new artifact.

    Example: em add checkpoints/ --name gpt
    """
    from t9k import em

    artifact = em.create_artifact(name)
    for path in paths:
        (artifact.add_dir if os.path.isdir(path) else artifact.add_file)(path, obj_path)
    click.echo(json.dumps(artifact.to_dict()) if as_json else artifact.local)


@main.command("ls")
@click.argument("artifact", required=False)
@json_option
def list_(artifact: str | None, as_json: bool) -> None:
    """List local artifacts, or the entries of one."""
    from t9k import em
    from t9k.em.artifact import artifact_parent_dir

    if artifact is not None:
        objects = em.load_artifact(artifact).objects
        lines = [f"{entry.get('size', '-'):>14}  {entry['path']}" for entry in objects]
        click.echo(json.dumps(objects) if as_json else "\n".join(lines))
        return
    parent = artifact_parent_dir()
    names = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
    click.echo(json.dumps(names) if as_json else "\n".join(names))


@main.command()
@click.argument("artifact")
def show(artifact: str) -> None:
    """Show an artifact's metadata and version as JSON."""
    from t9k import em
    from t9k.em import _engine

    loaded = em.load_artifact(artifact)
    click.echo(json.dumps(loaded.to_dict()["metadata"] | {"digest": _engine.manifest_digest(loaded.local)}, indent=1))


@main.command()
@click.argument("artifact", required=False)
@json_option
def verify(artifact: str | None, as_json: bool) -> None:
    """Hash every file of an artifact, or of the whole store, and report what is wrong. Exits 1 if anything is."""
    from t9k.em import _engine
    from t9k.em.artifact import store_dir
    from t9k.em.errors import translated
    from t9k.em.progress import Progress

    with translated(), Progress("verify") as progress:
        report: dict[str, Any] = _engine.verify(store_dir(), artifact, progress)
    if as_json:
        click.echo(json.dumps(report))
    else:
        for problem in report["problems"]:
            click.echo(f"{problem['kind']}: {problem['path']}")
        click.echo(f"{report['objects']} files, {report['bytes']} bytes, {len(report['problems'])} problems")
    sys.exit(1 if report["problems"] else 0)


@main.command("hash")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False))
def hash_(paths: tuple[str, ...]) -> None:
    """Print BLAKE3 digests of files as b3sum does."""
    from t9k.em import _engine
    from t9k.em.errors import translated
    from t9k.em.progress import Progress

    for path in paths:
        with translated(), Progress("hash") as progress:
            click.echo(f"{_engine.hash_file(path, progress)}  {path}")

"""The `em` command.

Exit codes: 0 success, 1 an error or a problem that was found, 2 a wrong call.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
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
        objects = em.load_artifact(_directory(artifact)).objects
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

    loaded = em.load_artifact(_directory(artifact))
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
        report: dict[str, Any] = _engine.verify(store_dir(), _directory(artifact) if artifact else None, progress)
    if as_json:
        click.echo(json.dumps(report))
    else:
        for problem in report["problems"]:
            click.echo(f"{problem['kind']}: {problem['path']}")
        click.echo(f"{report['objects']} files, {report['bytes']} bytes, {len(report['problems'])} problems")
    sys.exit(1 if report["problems"] else 0)


def _size(size_bytes: int) -> str:
    """A size as people read it: three digits and a binary unit."""
    size, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


def _directory(artifact: str) -> str:
    """A directory as given, or that of an alternative name in the parent directory."""
    from t9k.em.artifact import artifact_parent_dir

    below = os.path.join(artifact_parent_dir(), artifact)
    return below if not os.path.isdir(artifact) and os.path.isdir(below) else artifact


AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _age_s(context: click.Context, parameter: click.Parameter, text: str) -> int:
    """Seconds of an age such as 30s, 10m, 1h or 7d."""
    number, unit = text[:-1], text[-1:]
    if unit not in AGE_UNITS or not number.isdecimal() or len(number) > 9:
        raise click.BadParameter(f"{text!r} is not an age such as 30s, 10m, 1h or 7d")
    return int(number) * AGE_UNITS[unit]


@main.command()
@click.option("--dry-run", is_flag=True, help="Only say what would be reclaimed.")
@click.option(
    "--older-than",
    "older_than_s",
    default="1h",
    show_default=True,
    callback=_age_s,
    help="Delete what nothing has reached for this long; 0s at once, when no other host uses the store.",
)
@json_option
def gc(dry_run: bool, older_than_s: int, as_json: bool) -> None:
    """Reclaim objects that no artifact reaches.

    Unreachable objects are set aside at first, and deleted by a later run once they are old enough.

    Example: em gc --dry-run
    """
    from t9k.em import _engine
    from t9k.em.artifact import store_dir
    from t9k.em.errors import translated

    with translated():
        planned = _engine.gc(store_dir(), older_than_s, True)
    if not as_json:
        count, size_bytes = planned["unreachable_objects"], planned["unreachable_bytes"]
        click.echo(f"{count} objects that no artifact reaches, {size_bytes} bytes")
    if dry_run:
        if as_json:
            click.echo(json.dumps(planned))
        return
    with translated():
        done = _engine.gc(store_dir(), older_than_s, False)
    if as_json:
        click.echo(json.dumps(done))
        return
    click.echo(f"deleted {done['deleted_objects']}, freed {done['freed_bytes']} bytes on the disk")
    if kept := done["unreachable_objects"] - done["deleted_objects"]:
        click.echo(f"{kept} are set aside until they are old enough, or an add is running: run `em gc` again later")


@main.command()
@click.argument("artifacts", nargs=-1)
@json_option
def du(artifacts: tuple[str, ...], as_json: bool) -> None:
    """Show what artifacts occupy: bytes of all files, of distinct objects, and of objects no other one has.

    Example: em du
    """
    from t9k.em import _engine
    from t9k.em.artifact import METADATA, artifact_parent_dir
    from t9k.em.errors import translated

    directories = [_directory(artifact) for artifact in artifacts]
    if not artifacts and os.path.isdir(parent := artifact_parent_dir()):
        found = (os.path.join(parent, name) for name in sorted(os.listdir(parent)))
        directories = [path for path in found if os.path.exists(os.path.join(path, METADATA))]
    with translated():
        sizes = _engine.usage(directories)
    fields = ("apparent_bytes", "stored_bytes", "unique_bytes")
    rows = [
        {"artifact": directory} | dict(zip(fields, row, strict=True))
        for directory, row in zip([*directories, "total"], sizes, strict=True)
    ]
    if as_json:
        click.echo(json.dumps(rows))
        return
    click.echo(f"{'apparent':>12} {'stored':>12} {'unique':>12}")
    for directory, row in zip([*directories, "total"], sizes, strict=True):
        click.echo(" ".join(f"{_size(size):>12}" for size in row) + f"  {directory}")


@main.command()
@click.argument("first")
@click.argument("second")
@json_option
def diff(first: str, second: str, as_json: bool) -> None:
    """Show what the second artifact adds (+), lacks (-) and changes (~), and how many bytes it shares.

    Example: em diff checkpoints_261123_101500_a1b2c3 checkpoints_261123_111500_d4e5f6
    """
    from t9k.em import _engine
    from t9k.em.artifact import store_dir
    from t9k.em.errors import translated

    with translated():
        found = _engine.diff(store_dir(), _directory(first), _directory(second))
    if as_json:
        click.echo(json.dumps(found))
        return
    for sign, kind in (("+", "added"), ("-", "removed"), ("~", "changed")):
        for path in found[kind]:
            click.echo(f"{sign} {path}")
    click.echo(f"{_size(found['shared_bytes'])} of {_size(found['unique_bytes'])} shared")


@main.command("hash")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
@json_option
def hash_(paths: tuple[str, ...], as_json: bool) -> None:
    """Print BLAKE3 digests of files, and of all files below directories, as b3sum does.

    Example: em hash checkpoints/ model.safetensors
    """
    from t9k.em import _engine
    from t9k.em.errors import translated
    from t9k.em.progress import Progress

    digests = {}
    for path in _files(paths):
        with translated(), Progress("hash") as progress:
            digests[path] = _engine.hash_file(path, progress)
        if not as_json:
            click.echo(f"{digests[path]}  {path}")
    if as_json:
        click.echo(json.dumps(digests))


def _files(paths: Iterable[str]) -> Iterator[str]:
    """The paths, and for a directory the files below it, sorted."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for directory, directories, names in os.walk(path):
            directories.sort()
            yield from (os.path.join(directory, name) for name in sorted(names))

"""`em verify`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import click

from t9k.em.cli.console import count_text, echo_json_rows
from t9k.em.cli.verb import Verb, json_option
from t9k.em.escape import printable

KINDS = ("missing", "damaged", "stray", "unreadable")

# What can be done about problems of some kinds with some things.
_MEND = (
    ("missing damaged", "object file", "`add_file` of the original to the artifact mends its file, and the object"),
    ("missing damaged", "object", "if the artifact is on a server, `em load` into a new directory brings its objects"),
    ("damaged", "file", "`add_file` of the file itself keeps what was changed on purpose"),
    ("missing damaged", "table", "remove a damaged chunk table and add the file again: its object is right"),
    ("damaged", "manifest", "its files are still there: remove `.artifact` and add them to a new artifact, or load it"),
    ("damaged", "manifest", "again; until then `em gc` removes nothing"),
    ("unreadable", "artifact", "mount its file system, or remove the file named above if it is gone for good"),
    ("stray", "file", "`add_file` makes an entry of a stray file; nothing of the artifact needs it"),
    ("stray", "table other", "nothing needs stray files of the store"),
)


@click.command(
    "verify",
    cls=Verb,
    examples=["em verify", "em verify checkpoints_261123_101500_a1b2c3", "em verify --store --json"],
    exit_codes="0 all is well, 1 a problem was found, or an error, 2 a wrong call",
)
@click.argument("artifact", required=False)
@click.option("--store", is_flag=True, help="The whole store, which is the default.")
@json_option
def command(artifact: str | None, store: bool, as_json: bool) -> None:
    """Hash every file of an artifact, or of the whole store, and report what is wrong.

    Of the store: objects, their chunks and chunk tables, the manifests of all artifacts that use it, and the objects
    that these name. Of an artifact: its files, and the same of their objects. What is found is missing, damaged,
    stray (a file that nothing names) or unreadable. Nothing is changed.
    """
    from t9k.em import _engine
    from t9k.em.cli.places import artifact_dir, existing_store_dir
    from t9k.em.errors import translated
    from t9k.em.progress import Progress

    if artifact and store:
        raise click.UsageError("an artifact and --store exclude each other")
    directory = artifact_dir(artifact) if artifact else None
    with translated():
        with Progress("verify") as progress:
            report = _engine.verify(existing_store_dir(), directory, progress)
        if as_json:
            # Written while they are read: there may be millions.
            echo_json_rows(_with_files(report.pop("problems")), report, "problems")
        else:
            _print(report)
    sys.exit(1 if any(report[kind]["files"] for kind in KINDS) else 0)


def _print(report: dict[str, Any]) -> None:
    found: set[tuple[str, str]] = set()
    for problem in report["problems"]:
        if problem["file"] is not None:
            directory, path = problem["file"]
            click.echo(f"  {printable(_shown(directory))}: {printable(path)}")
            continue
        found.add((problem["kind"], problem["thing"]))
        reason = f": {problem['reason']}" if problem["reason"] else ""
        text = f"{problem['path']} ({count_text(problem['bytes'], 'byte')}){reason}"
        click.echo(f"{click.style(problem['kind'], fg='red')}: {printable(text)}")
    counts = [(kind, report[kind]["files"], report[kind]["bytes"]) for kind in KINDS]
    each = [f"{files:,} {kind} ({count_text(size, 'byte')})" for kind, files, size in counts if files]
    total = count_text(sum(files for _, files, _ in counts), "problem") + (": " if each else "")
    click.echo(
        f"{count_text(report['objects'], 'file')}, {count_text(report['bytes'], 'byte')}, {total}{', '.join(each)}"
    )
    for kinds, things, mend in _MEND:
        if any(kind in kinds.split() and thing in things.split() for kind, thing in found):
            click.echo(f"Hint: {mend}", err=True)


@cache
def _shown(directory: str) -> str:
    """The alternative name of an artifact in the parent directory, the whole path of another."""
    from t9k.em.artifact import artifact_parent_dir

    parent, name = os.path.split(directory)
    is_usual = os.path.isdir(artifact_parent_dir()) and os.path.samefile(parent or ".", artifact_parent_dir())
    return name if is_usual else directory


def _with_files(problems: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each problem with the files of artifacts that its object is."""
    last: dict[str, Any] | None = None
    for problem in problems:
        if problem["file"] is not None and last is not None:
            directory, path = problem["file"]
            last["files"].append({"artifact": directory, "path": path})
            continue
        if last is not None:
            yield last
        last = {key: value for key, value in problem.items() if key != "file"} | {"files": []}
    if last is not None:
        yield last

"""`aistore check`."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from t9k.aistore.cli import Place


@click.command("check")
@click.option("--read", is_flag=True, help="Read every blob and hash every chunk, too.")
@click.option("--json", "as_json", is_flag=True, help="Print each problem as a line of JSON.")
@click.pass_obj
def command(place: Place, read: bool, as_json: bool) -> None:
    """Compare database and blobs, and find what is damaged. Changes nothing; may run beside a server.

    Exit code 1 means that data are missing or damaged. Objects that are not what their client said, and blobs that
    nothing names, are told too, but nothing of anybody's is lost. So are, at the end, bytes that nothing uses and that
    stay because something else in the same packs is used.

    Example: aistore check --read
    """
    from t9k.aistore.artifacts.check import check, idle

    lost = found = 0
    with place.opened() as services, place.progress() as report:
        for problem in check(services.database, services.blobs, read=read, report=report):
            found += 1
            lost += problem.is_loss
            click.echo(json.dumps(asdict(problem)) if as_json else f"{problem.kind}: {problem.what}: {problem.detail}")
        kept = idle(services.database)
    if not as_json:
        if kept.packs:
            click.echo(f"{kept.size_bytes / 1e6:,.1f} MB that nothing uses lie in {kept.packs} packs with what is used")
        click.echo(f"{lost} problems" + (f", and {found - lost} that lose nothing" if found > lost else ""))
    raise SystemExit(1 if lost else 0)

"""`aistore backup`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from t9k.aistore.cli import Place


@click.command("backup")
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print what was saved as JSON.")
@click.pass_obj
def command(place: Place, target: Path, as_json: bool) -> None:
    """Copy database and blobs into a directory, while the server runs.

    The copy is of one moment. Repeated into the same directory, only new blobs are copied.

    Example: aistore backup /backup/aistore
    """
    from t9k.aistore.backup import backup

    with place.opened() as services, place.progress() as report:
        saved = backup(services.database, services.blobs, target, report)
    rows = sum(saved["rows"].values())
    click.echo(json.dumps(saved) if as_json else f"saved {rows} rows and {saved['blobs']} blobs to {target}")

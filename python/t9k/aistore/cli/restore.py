"""`aistore restore`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from t9k.aistore.cli import Place


@click.command("restore")
@click.argument("source", type=click.Path(file_okay=False, exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print what was restored as JSON.")
@click.pass_obj
def command(place: Place, source: Path, as_json: bool) -> None:
    """Make a server's data from a backup; the data directory, or the database, must be new.

    A backup of a server on SQLite can be restored into PostgreSQL, and the reverse.

    Example: aistore --data /srv/aistore restore /backup/aistore
    """
    from t9k.aistore.backup import restore

    with place.opened(schema=False) as services, place.progress() as report:
        document = restore(source, services.database, services.blobs, report)
    rows = sum(document["rows"].values())
    click.echo(json.dumps(document) if as_json else f"restored {rows} rows and {document['blobs']} blobs")

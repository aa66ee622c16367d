"""`aistore migrate`."""

from __future__ import annotations

import click

from t9k.aistore.cli import Place


@click.command("migrate")
@click.pass_obj
def command(place: Place) -> None:
    """Bring the database to this version's schema.

    `aistore serve` does so too when it starts; with several servers on one database, stop them first.

    Example: aistore --database-url postgresql://aistore@/aistore migrate
    """
    from t9k.aistore.db import Database
    from t9k.aistore.db.schema import current, upgrade
    from t9k.aistore.settings import Settings

    settings = Settings(data_dir=place.data, database_url=place.database_url)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.url_of_database)
    before = current(database)
    upgrade(database)
    click.echo(f"schema {before or 'none'} → {current(database)}")
    database.close()

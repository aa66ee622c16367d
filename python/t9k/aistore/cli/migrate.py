"""`aistore migrate`."""

from __future__ import annotations

import click

from t9k.aistore.cli import Place


@click.command("migrate")
@click.option("--restored", is_flag=True, help="The database was put back by other means than `aistore restore`.")
@click.pass_obj
def command(place: Place, restored: bool) -> None:
    """Bring the database to this version's schema.

    `aistore serve` does so too when it starts; with several servers on one database, stop them first.

    Clients send again what a restored database lacks. After `aistore restore` they notice by themselves; after a
    copy of files, pg_restore or a snapshot, --restored tells them. Stop the servers first.

    Example: aistore --database-url postgresql://aistore@/aistore migrate
    """
    from t9k.aistore.db import Database, history
    from t9k.aistore.db.schema import current, upgrade
    from t9k.aistore.settings import Settings

    settings = Settings(data_dir=place.data, database_url=place.database_url)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    database = Database(settings.url_of_database)
    before = current(database)
    upgrade(database)
    if restored:
        database.write(history.renew)
    click.echo(f"schema {before or 'none'} → {current(database)}")
    database.close()

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
    from t9k.aistore.db import history
    from t9k.aistore.db.schema import current, upgrade

    with place.opened(schema=False) as services:
        before = current(services.database)
        upgrade(services.database)
        if restored:
            services.database.write(history.renew)
        click.echo(f"schema {before or 'none'} → {current(services.database)}")

"""`aistore keys`."""

from __future__ import annotations

import click

from t9k.aistore.cli import Place
from t9k.aistore.cli.tables import as_json, show

DAY_US = 86_400_000_000


@click.group("keys")
def command() -> None:
    """Add, list and revoke API keys.

    These work on the database itself, beside a running server.

    Example: aistore keys add ada laptop
    """


@command.command("add")
@click.argument("user")
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("read", "write"),
    show_default=True,
    type=click.Choice(["read", "write", "admin"]),
    help="What the key may do; may be repeated.",
)
@click.option("--days", type=click.IntRange(1, 36_500), help="Days until it expires.  [default: never]")
@as_json
@click.pass_obj
def add(place: Place, user: str, name: str, scopes: tuple[str, ...], days: int | None, as_json: bool) -> None:
    """Make an API key of a user and print it; it is shown only now.

    Example: aistore keys add ada ci --scope read --days 90
    """
    from t9k.aistore.accounts.users import add_key
    from t9k.aistore.clock import now_us

    expires_us = None if days is None else now_us() + days * DAY_US
    with place.opened() as services:
        key = add_key(services.database, user, name, scopes, expires_us)
    if as_json:
        show([{"user": user, "name": name, "prefix": key.prefix, "api_key": key.text}], True)
    else:
        click.echo(key.text)


@command.command("list")
@click.argument("user", required=False)
@as_json
@click.pass_obj
def list_all(place: Place, user: str | None, as_json: bool) -> None:
    """List the keys of a user, or of all.

    Example: aistore keys list ada
    """
    from t9k.aistore.clock import iso
    from t9k.aistore.db import accounts

    with place.opened() as services:
        rows = services.database.read(lambda connection: accounts.keys_page(connection, user, "", 1_000_000))
    show(
        [
            {
                "prefix": row.prefix,
                "user": row.user_name,
                "name": row.name,
                "scopes": row.scopes.split(),
                "expires": iso(row.expires_us),
                "last_used": iso(row.last_used_us),
                "revoked": iso(row.revoked_us),
            }
            for row in rows
        ],
        as_json,
    )


@command.command("revoke")
@click.argument("key")
@click.pass_obj
def revoke(place: Place, key: str) -> None:
    """Revoke a key, named by the prefix that `aistore keys list` shows: at once.

    Example: aistore keys revoke em_pat_0123456789
    """
    from t9k.aistore.accounts.keys import lookup_prefix
    from t9k.aistore.accounts.users import revoke_key

    with place.opened() as services:
        services.database.write(lambda connection: revoke_key(connection, None, None, lookup_prefix(key)))

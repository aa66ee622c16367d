"""`aistore groups`."""

from __future__ import annotations

import click

from t9k.aistore.cli import Place
from t9k.aistore.cli.tables import as_json, show


@click.group("groups")
def command() -> None:
    """Add, list and revoke groups of users, with whom nodes can be shared.

    These work on the database itself, beside a running server.

    Example: aistore groups add vision ada bob
    """


@command.command("add")
@click.argument("name")
@click.argument("users", nargs=-1)
@click.pass_obj
def add(place: Place, name: str, users: tuple[str, ...]) -> None:
    """Make a group if it is not there, and put users into it.

    Example: aistore groups add vision ada bob
    """
    from sqlalchemy.engine import Connection

    from t9k.aistore.accounts import groups
    from t9k.aistore.db import accounts

    def work(connection: Connection) -> None:
        if accounts.group_by_name(connection, name) is None or not users:
            groups.add_group(connection, None, name)
        for user in users:
            groups.add_member(connection, None, name, user)

    with place.opened() as services:
        services.database.write(work)


@command.command("list")
@as_json
@click.pass_obj
def list_all(place: Place, as_json: bool) -> None:
    """List all groups and who is in them.

    Example: aistore groups list
    """
    from sqlalchemy.engine import Connection

    from t9k.aistore.clock import iso
    from t9k.aistore.db import accounts

    def work(connection: Connection) -> list[dict[str, object]]:
        return [
            {"name": row.name, "members": accounts.members(connection, row.id), "created": iso(row.created_us)}
            for row in accounts.groups_page(connection, "", 1_000_000)
        ]

    with place.opened() as services:
        show(services.database.read(work), as_json)


@command.command("revoke")
@click.argument("name")
@click.argument("users", nargs=-1)
@click.pass_obj
def revoke(place: Place, name: str, users: tuple[str, ...]) -> None:
    """Take users out of a group; without users, remove the group and every share with it.

    Example: aistore groups revoke vision bob
    """
    from sqlalchemy.engine import Connection

    from t9k.aistore.accounts import groups

    def work(connection: Connection) -> None:
        for user in users:
            groups.remove_member(connection, None, name, user)
        if not users:
            groups.remove_group(connection, None, name)

    with place.opened() as services:
        services.database.write(work)

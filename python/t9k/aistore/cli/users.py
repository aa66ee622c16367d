"""`aistore users`."""

from __future__ import annotations

import click

from t9k.aistore.cli import Place
from t9k.aistore.cli.tables import as_json, show


@click.group("users")
def command() -> None:
    """Add, list, disable and enable users.

    These work on the database itself, beside a running server.

    Example: aistore users add ada --key
    """


@command.command("add")
@click.argument("name")
@click.option("--role", type=click.Choice(["user", "admin"]), default="user", show_default=True)
@click.option("--key", "with_key", is_flag=True, help="Make an API key too, and print it.")
@as_json
@click.pass_obj
def add(place: Place, name: str, role: str, with_key: bool, as_json: bool) -> None:
    """Add a user with an empty tree.

    Example: aistore users add ada --role admin --key
    """
    from t9k.aistore.accounts.users import add_key, add_user

    with place.opened() as services:
        user = add_user(services.database, name, role)
        scopes = ("read", "write", "admin") if role == "admin" else ("read", "write")
        key = add_key(services.database, name, "first", scopes).text if with_key else None
    if as_json:
        show([{"id": user.id, "name": name, "role": role, "api_key": key}], True)
    else:
        click.echo(f"added {role} {name}" + (f"\nAPI key, shown only now: {key}" if key else ""))


@command.command("list")
@as_json
@click.pass_obj
def list_all(place: Place, as_json: bool) -> None:
    """List all users.

    Example: aistore users list --json
    """
    from t9k.aistore.accounts.users import shared_domain
    from t9k.aistore.clock import iso
    from t9k.aistore.db import accounts

    with place.opened() as services:
        rows = services.database.read(lambda connection: accounts.users_page(connection, "", 1_000_000))
    show(
        [
            {
                "name": row.name,
                "role": row.role,
                "domain": shared_domain(row),
                "created": iso(row.created_us),
                "disabled": iso(row.disabled_us),
            }
            for row in rows
        ],
        as_json,
    )


@command.command("revoke")
@click.argument("name")
@click.pass_obj
def revoke(place: Place, name: str) -> None:
    """Disable a user: their keys stop working at once, their tree stays.

    Example: aistore users revoke ada
    """
    _set_disabled(place, name, True)


@command.command("enable")
@click.argument("name")
@click.pass_obj
def enable(place: Place, name: str) -> None:
    """Enable a user who was disabled; keys that were not revoked work again.

    Example: aistore users enable ada
    """
    _set_disabled(place, name, False)


@command.command("role")
@click.argument("name")
@click.argument("role", type=click.Choice(["user", "admin"]))
@click.pass_obj
def change_role(place: Place, name: str, role: str) -> None:
    """Make a user an administrator, or no longer one.

    Example: aistore users role ada admin
    """
    from t9k.aistore.accounts.users import change_user

    with place.opened() as services:
        services.database.write(lambda connection: change_user(connection, None, name, role=role))


@command.command("domain")
@click.argument("name")
@click.argument("domain", default="")
@click.pass_obj
def change_domain(place: Place, name: str, domain: str) -> None:
    """Let a user's uploads share chunks with those of others in the same domain; without one with nobody's.

    Who shares a domain is told, by what need not be sent, what others of it have stored. What a user has stored so far
    stays where it is, and is sent once more when it is uploaded again.

    Example: aistore users domain ada vision-team
    """
    from t9k.aistore.accounts.users import change_user

    with place.opened() as services:
        services.database.write(lambda connection: change_user(connection, None, name, shares_chunks_in=domain))


@command.command("password")
@click.argument("name")
@click.password_option(help="Asked for, if it is not given.")
@click.pass_obj
def set_password(place: Place, name: str, password: str) -> None:
    """Set the password with which a user logs in to the console.

    Example: aistore users password ada
    """
    from t9k.aistore.accounts import passwords

    with place.opened() as services:
        passwords.set_password(services.database, None, name, password)


def _set_disabled(place: Place, name: str, disabled: bool) -> None:
    from t9k.aistore.accounts.users import change_user

    with place.opened() as services:
        services.database.write(lambda connection: change_user(connection, None, name, disabled=disabled))

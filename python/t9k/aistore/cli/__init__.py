"""The `aistore` command: a file for each verb, imported when the verb is run.

Exit codes: 0 success, 1 an error or a problem that was found, 2 a wrong call.
"""

from __future__ import annotations

import importlib
import os
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from t9k.aistore.services import Services

VERBS = {
    "serve": "Start the server.",
    "users": "Add, list, disable and enable users.",
    "keys": "Add, list and revoke API keys.",
    "groups": "Add, list and revoke groups.",
    "migrate": "Bring the database to this version's schema.",
    "backup": "Copy database and blobs, while the server runs.",
    "restore": "Make a server's data from a backup.",
    "check": "Compare database and blobs, and find what is damaged.",
    "gc": "Delete what nothing reaches any more.",
}
"""Every verb with its line of `aistore --help`, which is shown without importing the verb's module."""


class _Group(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        command = importlib.import_module(f"t9k.aistore.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        from t9k.aistore.errors import Refusal

        try:
            return super().invoke(ctx)
        except Refusal as refusal:
            hint = f" (hint: {refusal.hint})" if refusal.hint else ""
            raise click.ClickException(f"{refusal.message}{hint}") from None
        except OSError as error:
            raise click.ClickException(str(error)) from None
        except Exception as error:  # the command's edge: a database that is away or full is no bug
            from sqlalchemy.exc import OperationalError

            if not isinstance(error, OperationalError):
                raise
            raise click.ClickException(f"cannot use the database: {' '.join(str(error.orig).split())}") from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "AISTORE"},
    epilog="Exit codes: 0 success, 1 an error or a problem that was found, 2 a wrong call. Every option of a command "
    "is also an environment variable (AISTORE_SERVE_PORT) and a key of the file that --config names ([serve] port).",
)
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A TOML file with a table for each command.  [default: aistore.toml in the data directory, if it is there]",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of blobs, and of the database if it is SQLite.  [default: $XDG_DATA_HOME/aistore]",
)
@click.option("--database-url", help="postgresql://user:password@host/name.  [default: SQLite in the data directory]")
@click.pass_context
def main(ctx: click.Context, config: Path | None, data: Path | None, database_url: str | None) -> None:
    """The server of t9k.em: users, folders, runs and artifacts.

    Example: aistore serve
    """
    from t9k.aistore.settings import default_data_dir

    data = data or default_data_dir()
    file = config or data / "aistore.toml"
    document: dict[str, Any] = {}
    if config is not None or file.exists():
        try:
            document = tomllib.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise click.UsageError(f"{file}: {error}") from None
        if unknown := _unknown_keys(document):
            raise click.UsageError(f"{file}: no such key or command: {', '.join(sorted(unknown))}")
    if "data" in document and ctx.get_parameter_source("data") is click.core.ParameterSource.DEFAULT:
        data = Path(os.path.expanduser(document["data"]))
    ctx.default_map = {verb: table for verb, table in document.items() if isinstance(table, dict)}
    ctx.obj = Place(data, database_url or document.get("database_url"))


def _unknown_keys(document: dict[str, Any]) -> set[str]:
    """What of a configuration file would have no effect."""
    unknown = set()
    for name, value in document.items():
        if name in ("data", "database_url"):
            continue
        if name not in VERBS or not isinstance(value, dict):
            unknown.add(name)
            continue
        command = importlib.import_module(f"t9k.aistore.cli.{name}").command
        known = {option.name for option in command.params} | set(getattr(command, "commands", ()))
        unknown |= {f"{name}.{key}" for key in value.keys() - known}
    return unknown


class Place:
    """Where a server's data is: what every verb works on."""

    def __init__(self, data: Path, database_url: str | None) -> None:
        """Opens nothing."""
        self.data = data
        self.database_url = database_url

    @contextmanager
    def opened(self, *, schema: bool = True) -> Iterator[Services]:
        """Database and blobs, to be used beside a running server.

        Args:
            schema: Whether there must be a server's database, which is brought to the newest schema first.

        Raises:
            Refusal: There is none (`not_found`): most likely the server's data are elsewhere.
        """
        from t9k.aistore.db.schema import current, upgrade
        from t9k.aistore.errors import not_found
        from t9k.aistore.services import open_services
        from t9k.aistore.settings import Settings

        settings = Settings(data_dir=self.data, database_url=self.database_url)
        place = self.data if self.database_url is None else "the database"
        hint = "name those of the server with --data or --database-url; `aistore serve` and `aistore migrate` make new"
        nothing = not_found(f"there are no data of a server in {place}", hint=hint)
        if schema and settings.sqlite_file is not None and not settings.sqlite_file.exists():
            raise nothing
        services = open_services(settings, schema=False)
        try:
            if schema:
                if current(services.database) is None:
                    raise nothing
                upgrade(services.database)
            yield services
        finally:
            services.close()

    @contextmanager
    def progress(self) -> Iterator[Callable[[int, int], None]]:
        """Says every two seconds on standard error how many things and bytes are done."""
        due = time.monotonic() + 2

        def report(count: int, size_bytes: int) -> None:
            nonlocal due
            if time.monotonic() >= due:
                due = time.monotonic() + 2
                click.echo(f"{count} blobs, {size_bytes / 1e6:,.0f} MB", err=True)

        yield report

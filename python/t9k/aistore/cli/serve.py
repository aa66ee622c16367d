"""`aistore serve`."""

from __future__ import annotations

from pathlib import Path

import click

from t9k.aistore.cli import Place


def _origins(context: click.Context, option: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    from t9k.aistore.api.cors import check_origin

    try:
        return tuple(check_origin(origin) for origin in value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, option) from None


@click.command("serve")
@click.option("--data", type=click.Path(file_okay=False, path_type=Path), help="As before the command.")
@click.option("--database-url", help="As before the command.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, type=click.IntRange(0, 65535), help="0 for any that is free.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Processes that answer.")
@click.option("--user", default="admin", show_default=True, help="Name of the first user, made when there is none.")
@click.option(
    "--ready-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Gets url, user and api_key as JSON, once requests are answered.",
)
@click.option(
    "--packs-in-flight",
    default=3,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Packs that a process receives and checks at once; each takes up to 64 MiB of memory.",
)
@click.option(
    "--trash-days", default=30, show_default=True, type=click.IntRange(0), help="Days until what was deleted is gone."
)
@click.option(
    "--crashed-after",
    default=180,
    show_default=True,
    type=click.IntRange(1),
    metavar="SECONDS",
    help="A run that has not beaten for so long counts as crashed.",
)
@click.option(
    "--behind-proxy", is_flag=True, help="A proxy with TLS is in front: trust its X-Forwarded-For and -Proto."
)
@click.option(
    "--cors-origins",
    multiple=True,
    metavar="ORIGIN",
    callback=_origins,
    help="Pages of this origin (https://console.example.com) may call the API from a browser; several are repeated.  "
    "[default: none]",
)
@click.option(
    "--log-level",
    default="warning",
    show_default=True,
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="`info` has a line for each request.",
)
@click.pass_obj
def command(
    place: Place,
    data: Path | None,
    database_url: str | None,
    ready_file: Path | None,
    user: str,
    host: str,
    port: int,
    workers: int,
    packs_in_flight: int,
    trash_days: int,
    crashed_after: int,
    behind_proxy: bool,
    cors_origins: tuple[str, ...],
    log_level: str,
) -> None:
    """Start the server.

    The first start makes a user, and prints their API key once.

    \b
    Examples:
      aistore serve
      aistore serve --data /srv/aistore --port 8000
      aistore serve --database-url postgresql://aistore@/aistore --workers 4
    """
    from t9k.aistore.serve import serve
    from t9k.aistore.settings import Settings

    settings = Settings(
        data_dir=(data or place.data).absolute(),
        database_url=database_url or place.database_url,
        host=host,
        port=port,
        workers=workers,
        packs_in_flight=packs_in_flight,
        trash_days=trash_days,
        crashed_after_s=crashed_after,
        behind_proxy=behind_proxy,
        cors_origins=cors_origins,
        log_level=log_level,
    )
    serve(settings, ready_file, user)

"""The `aistore` command.

Exit codes: 0 success, 1 an error or a problem that was found, 2 a wrong call.
"""

from __future__ import annotations

from pathlib import Path

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "AISTORE"})
def main() -> None:
    """The server of t9k.em: users, folders, runs and artifacts."""


@main.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Directory of the data.  [default: $XDG_DATA_HOME/aistore]"
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8765, show_default=True, help="Port to listen on; 0 for any that is free.")
@click.option("--database-url", help="postgresql://user:password@host/name.  [default: SQLite in the directory]")
@click.option(
    "--ready-file", type=click.Path(path_type=Path), help="Gets url, user and api_key as JSON once it answers."
)
def serve(data: Path | None, host: str, port: int, database_url: str | None, ready_file: Path | None) -> None:
    """Start the server.

    Example: aistore serve --data /srv/aistore
    """
    from t9k.aistore.serve import serve
    from t9k.aistore.settings import Settings, default_data_dir

    serve(Settings(data or default_data_dir(), host, port, database_url), ready_file)

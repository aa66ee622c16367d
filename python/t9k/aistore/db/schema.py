"""Bringing a database to the newest schema, by Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from t9k.aistore.db.database import Database
from t9k.aistore.errors import conflict


def config(database: Database) -> Config:
    """Alembic's configuration for this database."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    made.attributes["database"] = database
    return made


def upgrade(database: Database, revision: str = "head") -> None:
    """Runs the migrations that are missing, in one transaction. Two processes that start at once do it once.

    Raises:
        Refusal: A newer release has made its tables (`conflict`).
    """
    found, made = current(database), config(database)
    known = {script.revision for script in ScriptDirectory.from_config(made).walk_revisions()}
    if found is not None and found not in known:
        raise conflict(f"the database has the schema {found[:40]} of a newer release", hint="upgrade t9k")
    command.upgrade(made, revision)


def current(database: Database) -> str | None:
    """The revision that the database has; None if it has no tables yet."""
    return database.read(lambda connection: MigrationContext.configure(connection).get_current_revision())

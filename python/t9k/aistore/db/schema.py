"""Bringing a database to the newest schema, by Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from t9k.aistore.db.database import Database


def config(database: Database) -> Config:
    """Alembic's configuration for this database."""
    made = Config()
    made.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    made.attributes["database"] = database
    return made


def upgrade(database: Database, revision: str = "head") -> None:
    """Runs the migrations that are missing, in one transaction. Two processes that start at once do it once."""
    command.upgrade(config(database), revision)


def current(database: Database) -> str | None:
    """The revision that the database has; None if it has no tables yet."""
    return database.read(lambda connection: MigrationContext.configure(connection).get_current_revision())

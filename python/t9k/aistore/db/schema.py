"""Bringing a database to the newest schema, by Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config

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

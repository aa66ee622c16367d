"""What tells a database from its own backup."""

from __future__ import annotations

from sqlalchemy import Column, Table

from t9k.aistore.db.tables.metadata import Id, metadata

history = Table(
    "history",
    metadata,
    Column("id", Id, primary_key=True),  # one row; no backup has it
)

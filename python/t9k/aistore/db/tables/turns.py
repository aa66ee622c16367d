"""When background jobs last ran."""

from __future__ import annotations

from sqlalchemy import Column, Table

from t9k.aistore.db.tables.metadata import Text, TimeUs, metadata

job_turns = Table(
    "job_turns",
    metadata,
    Column("name", Text, primary_key=True),
    Column("taken_us", TimeUs, nullable=False),
)

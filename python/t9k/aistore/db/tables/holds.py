"""What keeps the garbage collector from deleting blobs."""

from __future__ import annotations

from sqlalchemy import Column, Table

from t9k.aistore.db.tables.metadata import Id, TimeUs, metadata

blob_holds = Table(
    "blob_holds",
    metadata,
    Column("id", Id, primary_key=True),
    Column("until_us", TimeUs, nullable=False),  # then it counts no more: its backup died
)

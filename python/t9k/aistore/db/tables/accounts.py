"""Users, groups, API keys, the audit trail."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Index, Table

from t9k.aistore.db.tables.metadata import Id, Json, Text, TimeUs, metadata

users = Table(
    "users",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("role", Text, nullable=False),  # admin, user
    Column("password_hash", Text),  # argon2id, for the console
    Column("domain", Text, nullable=False),  # within it, stored chunks are shared and their presence is told
    Column("created_us", TimeUs, nullable=False),
    Column("disabled_us", TimeUs),
)

groups = Table(
    "groups",
    metadata,
    Column("id", Id, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("created_us", TimeUs, nullable=False),
)

group_members = Table(
    "group_members",
    metadata,
    Column("group_id", ForeignKey("groups.id", ondelete="CASCADE"), primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    Index(None, "user_id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Id, primary_key=True),
    Column("user_id", ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False, unique=True),  # finds the row; the hash decides
    Column("hash", sa.LargeBinary(32), nullable=False),  # SHA-256 of the key
    Column("scopes", Text, nullable=False),  # of read, write, admin; with a space between
    Column("created_us", TimeUs, nullable=False),
    Column("expires_us", TimeUs),
    Column("revoked_us", TimeUs),
    Column("last_used_us", TimeUs),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Id, primary_key=True),
    Column("at_us", TimeUs, nullable=False),
    Column("actor_id", Text),  # a user who may be gone, or null for the command line
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("detail", Json),
    Column("address", Text),
    Column("request_id", Text),
)

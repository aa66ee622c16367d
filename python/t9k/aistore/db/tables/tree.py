"""Nodes of the users' trees, and who may see them."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Index, Table

from t9k.aistore.db.tables.metadata import Id, Text, TimeUs, metadata

nodes = Table(
    "nodes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("parent_id", ForeignKey("nodes.id", deferrable=True), index=True),  # null for a user's root
    Column("owner_id", ForeignKey("users.id"), nullable=False),  # whose tree it is in
    Column("kind", Text, nullable=False),  # Folder, Shortcut, Run, Artifact
    Column("name", Text, nullable=False),  # NFC
    Column("name_key", Text, nullable=False),  # folded, for "without regard to case"
    Column("alternative_name", Text),  # of runs and artifacts: what it is called where its name is taken
    Column("description", Text, nullable=False, server_default=""),
    Column("target_id", Id),  # of a shortcut; may dangle
    Column("version", sa.Integer, nullable=False),  # counts changes; the ETag
    Column("created_us", TimeUs, nullable=False),
    Column("changed_us", TimeUs, nullable=False),
    Column("trashed_us", TimeUs),  # of a node in the trash, and of all below it
    Column("trash_root_id", Id),  # the node that was deleted, which restores or expires with all below it
    Index(
        "uq_nodes_parent_id_name",
        "parent_id",
        "name",
        unique=True,
        sqlite_where=sa.text("trashed_us IS NULL"),
        postgresql_where=sa.text("trashed_us IS NULL"),
    ),
    Index(
        "uq_nodes_root",
        "owner_id",
        unique=True,
        sqlite_where=sa.text("parent_id IS NULL"),
        postgresql_where=sa.text("parent_id IS NULL"),
    ),
    Index(None, "parent_id", "name_key"),
    Index(None, "trash_root_id"),
)

labels = Table(
    "node_labels",
    metadata,
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
    Column("label", Text, primary_key=True),
    Column("position", sa.Integer, nullable=False),
    Index(None, "label", "node_id"),
)

shares = Table(
    "shares",
    metadata,
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
    Column("grantee_kind", Text, primary_key=True),  # user, group, public
    Column("grantee_id", Text, primary_key=True),  # empty for the public
    Column("access", Text, nullable=False),  # view, edit
    Index(None, "grantee_kind", "grantee_id"),
)

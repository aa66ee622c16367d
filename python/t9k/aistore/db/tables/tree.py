"""Nodes of the users' trees, and who may see them."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, Index, Table

from t9k.aistore.db.tables.metadata import Id, Text, TimeUs, metadata


def _partial(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


_LIVE = _partial("trashed_us IS NULL")

nodes = Table(
    "nodes",
    metadata,
    Column("id", Id, primary_key=True),
    Column("parent_id", ForeignKey("nodes.id", deferrable=True), index=True),  # null for a user's root
    Column("owner_id", ForeignKey("users.id"), nullable=False),  # whose tree it is in
    Column("kind", Text, nullable=False),  # Folder, Shortcut, Run, Artifact
    Column("name", Text, nullable=False),  # NFC
    Column("name_key", Text, nullable=False),  # folded: what names are sorted by
    Column("sibling_key", Text, nullable=False),  # unique in the folder: the name, or name_key if that ignores case
    Column("ignore_case", sa.Boolean, nullable=False, server_default=sa.false()),  # of a folder: how names in it differ
    Column("alternative_name", Text),  # of runs and artifacts: what it is called where its name is taken
    Column("description", Text, nullable=False, server_default=""),
    Column("target_id", Id),  # of a shortcut; may dangle
    Column("version", sa.Integer, nullable=False),  # counts changes; the ETag
    Column("created_us", TimeUs, nullable=False),
    Column("changed_us", TimeUs, nullable=False),
    Column("trashed_us", TimeUs),  # of the node that was deleted; what lies below it went with it, and has null
    Index("uq_nodes_parent_id_sibling_key", "parent_id", "sibling_key", unique=True, **_LIVE),
    Index("uq_nodes_root", "owner_id", unique=True, **_partial("parent_id IS NULL")),
    # One for each order of a listing, so that any page costs the same.
    Index("ix_nodes_by_name", "parent_id", "name_key", "id", **_LIVE),
    Index("ix_nodes_by_kind", "parent_id", "kind", "name_key", "id", **_LIVE),
    Index("ix_nodes_by_created", "parent_id", "created_us", "id", **_LIVE),
    Index("ix_nodes_by_changed", "parent_id", "changed_us", "id", **_LIVE),
    Index("ix_nodes_trash", "owner_id", "trashed_us", "id", **_partial("trashed_us IS NOT NULL")),
    Index("ix_nodes_expiry", "trashed_us", **_partial("trashed_us IS NOT NULL")),
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
    Column("created_us", TimeUs, nullable=False),
    Index(None, "grantee_kind", "grantee_id", "node_id"),
)

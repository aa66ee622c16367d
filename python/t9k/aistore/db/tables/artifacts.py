"""Versions of artifacts, and what they are made of: manifest, objects, chunks, packs.

References go downwards and are foreign keys, so the database itself refuses to lose what something above it reaches:
node → version → manifest → object → chunk → pack. A domain is where presence is told; nodes of any user may have
versions whose manifests are of another domain, which is how copies outlive their originals.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Column, ForeignKey, ForeignKeyConstraint, Index, Table

from t9k.aistore.db.tables.metadata import Digest, Id, Json, Text, TimeUs, metadata

Number = sa.BigInteger().with_variant(sa.Integer, "sqlite")
"""A row's number, given by the database; small, because chunks and objects are many."""

CHECKING, COMPLETE, BAD = "checking", "complete", "bad"
"""States of objects: not hashed whole yet, what their digests say, or not that."""

domains = Table(
    "domains",
    metadata,
    Column("id", Number, primary_key=True),
    Column("name", Text, nullable=False, unique=True),  # users.domain
)

packs = Table(
    "packs",
    metadata,
    Column("id", Number, primary_key=True),
    Column("domain_id", ForeignKey("domains.id"), nullable=False),
    Column("digest", Digest, nullable=False),
    Column(
        "blob_key", Text, nullable=False, unique=True
    ),  # never used twice, so that a late delete meets nobody's bytes
    Column("size_bytes", sa.BigInteger, nullable=False),
    Column("created_us", TimeUs, nullable=False),
    Column("condemned_us", TimeUs),  # nothing reaches it: it answers "missing" and is deleted after the grace period
    Index(None, "domain_id", "digest", unique=True),
    Index(None, "condemned_us"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("id", Number, primary_key=True),
    Column("domain_id", ForeignKey("domains.id"), nullable=False),
    Column("digest", Digest, nullable=False),
    Column("pack_id", ForeignKey("packs.id"), nullable=False),
    Column("offset", sa.BigInteger, nullable=False),  # of the record in the pack
    Column("length", sa.Integer, nullable=False),  # of the whole record
    Column("raw_bytes", sa.Integer, nullable=False),  # of the chunk
    Index(None, "domain_id", "digest", unique=True),
    Index(None, "pack_id", "offset"),
)

# Where chunks were before they were copied to another pack: who was told so reads them there until the old pack goes.
moved_records = Table(
    "moved_records",
    metadata,
    Column("pack_id", ForeignKey("packs.id", ondelete="CASCADE"), primary_key=True),
    Column("offset", sa.BigInteger, primary_key=True),
    Column("length", sa.Integer, nullable=False),
    Column("chunk_id", ForeignKey("chunks.id", ondelete="CASCADE"), nullable=False, index=True),
    sqlite_with_rowid=False,
)

# A row for each way in which an object was said to be cut. A false one is marked bad and is in no honest one's way.
objects = Table(
    "objects",
    metadata,
    Column("id", Number, primary_key=True),
    Column("domain_id", ForeignKey("domains.id"), nullable=False),
    Column("digest", Digest, nullable=False),
    Column("table_hash", sa.LargeBinary(32), nullable=False),  # SHA-256 of the chunk table; empty without one
    Column("size_bytes", sa.BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("asked_us", TimeUs, nullable=False),  # when `plan` last vouched for it, or a manifest let go of it
    Column("claimed_us", TimeUs, nullable=False, server_default="0"),  # when somebody began to hash it
    Index(None, "domain_id", "digest", "table_hash", unique=True),
    Index(
        "ix_objects_checking",
        "claimed_us",
        sqlite_where=sa.text("state = 'checking'"),
        postgresql_where=sa.text("state = 'checking'"),
    ),
)

chunk_tables = Table(
    "chunk_tables",
    metadata,
    Column("object_id", ForeignKey("objects.id", ondelete="CASCADE"), primary_key=True),
    Column("bytes", sa.LargeBinary, nullable=False),
)

object_chunks = Table(
    "object_chunks",
    metadata,
    Column("object_id", ForeignKey("objects.id", ondelete="CASCADE"), primary_key=True),
    Column("position", sa.Integer, primary_key=True),
    Column("chunk_id", ForeignKey("chunks.id"), nullable=False, index=True),
    sqlite_with_rowid=False,
)

manifests = Table(
    "manifests",
    metadata,
    Column("id", Number, primary_key=True),
    Column("domain_id", ForeignKey("domains.id"), nullable=False),
    Column("digest", Digest, nullable=False),
    Column("blob_key", Text, nullable=False, unique=True),
    Column("manifest_bytes", sa.BigInteger, nullable=False),  # of the manifest itself
    Column("object_count", sa.BigInteger, nullable=False),  # distinct
    Column("size_bytes", sa.BigInteger, nullable=False),  # of these objects
    Column("checking_count", sa.BigInteger, nullable=False),  # of its objects that are still to be hashed whole
    Column("bad_count", sa.BigInteger, nullable=False),  # of its objects that are not what their digests say
    Column("created_us", TimeUs, nullable=False),
    Column("condemned_us", TimeUs, index=True),  # no version has it, and no commit finds it
    Index(None, "domain_id", "digest"),
)

manifest_objects = Table(
    "manifest_objects",
    metadata,
    Column("manifest_id", ForeignKey("manifests.id", ondelete="CASCADE"), primary_key=True),
    Column("object_id", ForeignKey("objects.id"), primary_key=True, index=True),
    sqlite_with_rowid=False,
)

versions = Table(
    "artifact_versions",
    metadata,
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
    Column("number", sa.Integer, primary_key=True),
    Column("manifest_id", ForeignKey("manifests.id"), nullable=False, index=True),
    Column("metadata", Json, nullable=False),
    Column("created_us", TimeUs, nullable=False),
    Column("created_by", Text, nullable=False),  # id of a user
    Column("pinned", sa.Boolean, nullable=False),  # kept whatever the retention says
)

aliases = Table(
    "artifact_aliases",
    metadata,
    Column("node_id", Id, primary_key=True),
    Column("alias", Text, primary_key=True),
    Column("number", sa.Integer, nullable=False),
    ForeignKeyConstraint(
        ["node_id", "number"], ["artifact_versions.node_id", "artifact_versions.number"], ondelete="CASCADE"
    ),
    Index(None, "node_id", "number"),
)

# A number is never used twice: what `name:3` once named is not named so again.
deleted_numbers = Table(
    "artifact_deleted_numbers",
    metadata,
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
    Column("highest", sa.Integer, nullable=False),  # number of a version that was deleted
)

retentions = Table(
    "artifact_retentions",
    metadata,
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), primary_key=True),
    Column("keep_last", sa.Integer),  # versions; null keeps all
    Column("ttl_s", sa.BigInteger),  # age in seconds; null keeps for ever
)

leases = Table(
    "leases",
    metadata,
    Column("id", Id, primary_key=True),
    Column("domain_id", ForeignKey("domains.id"), nullable=False),
    Column("user_id", Text, nullable=False),
    Column("expires_us", TimeUs, nullable=False, index=True),
)

# What a lease protects. It counts as long as the lease's row is there, which goes in the transaction that condemns.
lease_packs = Table(
    "lease_packs",
    metadata,
    Column("lease_id", ForeignKey("leases.id", ondelete="CASCADE"), primary_key=True),
    Column("pack_id", ForeignKey("packs.id", ondelete="CASCADE"), primary_key=True, index=True),
    sqlite_with_rowid=False,
)

commits = Table(
    "commits",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),  # the request's Idempotency-Key
    Column("manifest_digest", Digest, nullable=False),
    Column("node_id", ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("number", sa.Integer, nullable=False),
    Column("created", sa.Boolean, nullable=False),
    Column("at_us", TimeUs, nullable=False, index=True),
)

# Blobs whose rows are gone; a crash between the two leaves the rest of the work here.
doomed_blobs = Table(
    "doomed_blobs",
    metadata,
    Column("blob_key", Text, primary_key=True),
)

"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")
number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.Column("actor_id", text, nullable=True),
        sa.Column("action", text, nullable=False),
        sa.Column("target", text, nullable=False),
        sa.Column("detail", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("address", text, nullable=True),
        sa.Column("request_id", text, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
    )
    op.create_table(
        "blob_holds",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("until_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_blob_holds")),
    )
    op.create_table(
        "domains",
        sa.Column("id", number, nullable=False),
        sa.Column("name", text, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_domains")),
        sa.UniqueConstraint("name", name=op.f("uq_domains_name")),
    )
    op.create_table(
        "doomed_blobs",
        sa.Column("blob_key", text, nullable=False),
        sa.PrimaryKeyConstraint("blob_key", name=op.f("pk_doomed_blobs")),
    )
    op.create_table(
        "groups",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_groups")),
        sa.UniqueConstraint("name", name=op.f("uq_groups_name")),
    )
    op.create_table(
        "job_turns",
        sa.Column("name", text, nullable=False),
        sa.Column("taken_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_job_turns")),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("role", text, nullable=False),
        sa.Column("password_hash", text, nullable=True),
        sa.Column("domain", text, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("disabled_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("user_id", sa.String(length=20), nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("prefix", text, nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("scopes", text, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=True),
        sa.Column("revoked_us", sa.BigInteger(), nullable=True),
        sa.Column("last_used_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_api_keys_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("prefix", name=op.f("uq_api_keys_prefix")),
    )
    op.create_index(op.f("ix_api_keys_user_id"), "api_keys", ["user_id"], unique=False)
    op.create_table(
        "group_members",
        sa.Column("group_id", sa.String(length=20), nullable=False),
        sa.Column("user_id", sa.String(length=20), nullable=False),
        sa.ForeignKeyConstraint(
            ["group_id"], ["groups.id"], name=op.f("fk_group_members_group_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_group_members_user_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("group_id", "user_id", name=op.f("pk_group_members")),
    )
    op.create_index(op.f("ix_group_members_user_id"), "group_members", ["user_id"], unique=False)
    op.create_table(
        "leases",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("domain_id", number, nullable=False),
        sa.Column("user_id", text, nullable=False),
        sa.Column("expires_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], name=op.f("fk_leases_domain_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_leases")),
    )
    op.create_index(op.f("ix_leases_expires_us"), "leases", ["expires_us"], unique=False)
    op.create_table(
        "manifests",
        sa.Column("id", number, nullable=False),
        sa.Column("domain_id", number, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("blob_key", text, nullable=False),
        sa.Column("manifest_bytes", sa.BigInteger(), nullable=False),
        sa.Column("object_count", sa.BigInteger(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("checking_count", sa.BigInteger(), nullable=False),
        sa.Column("bad_count", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("condemned_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], name=op.f("fk_manifests_domain_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_manifests")),
        sa.UniqueConstraint("blob_key", name=op.f("uq_manifests_blob_key")),
    )
    op.create_index(op.f("ix_manifests_condemned_us"), "manifests", ["condemned_us"], unique=False)
    op.create_index(op.f("ix_manifests_domain_id_digest"), "manifests", ["domain_id", "digest"], unique=False)
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("parent_id", sa.String(length=20), nullable=True),
        sa.Column("owner_id", sa.String(length=20), nullable=False),
        sa.Column("kind", text, nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("name_key", text, nullable=False),
        sa.Column("sibling_key", text, nullable=False),
        sa.Column("ignore_case", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("alternative_name", text, nullable=True),
        sa.Column("description", text, server_default="", nullable=False),
        sa.Column("target_id", sa.String(length=20), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("changed_us", sa.BigInteger(), nullable=False),
        sa.Column("trashed_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_nodes_owner_id")),
        sa.ForeignKeyConstraint(["parent_id"], ["nodes.id"], name=op.f("fk_nodes_parent_id"), deferrable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_nodes")),
    )
    op.create_index(
        "ix_nodes_by_changed",
        "nodes",
        ["parent_id", "changed_us", "id"],
        unique=False,
        sqlite_where=sa.text("trashed_us IS NULL"),
        postgresql_where=sa.text("trashed_us IS NULL"),
    )
    op.create_index(
        "ix_nodes_by_created",
        "nodes",
        ["parent_id", "created_us", "id"],
        unique=False,
        sqlite_where=sa.text("trashed_us IS NULL"),
        postgresql_where=sa.text("trashed_us IS NULL"),
    )
    op.create_index(
        "ix_nodes_by_kind",
        "nodes",
        ["parent_id", "kind", "name_key", "id"],
        unique=False,
        sqlite_where=sa.text("trashed_us IS NULL"),
        postgresql_where=sa.text("trashed_us IS NULL"),
    )
    op.create_index(
        "ix_nodes_by_name",
        "nodes",
        ["parent_id", "name_key", "id"],
        unique=False,
        sqlite_where=sa.text("trashed_us IS NULL"),
        postgresql_where=sa.text("trashed_us IS NULL"),
    )
    op.create_index(
        "ix_nodes_expiry",
        "nodes",
        ["trashed_us"],
        unique=False,
        sqlite_where=sa.text("trashed_us IS NOT NULL"),
        postgresql_where=sa.text("trashed_us IS NOT NULL"),
    )
    op.create_index(op.f("ix_nodes_parent_id"), "nodes", ["parent_id"], unique=False)
    op.create_index(
        "ix_nodes_trash",
        "nodes",
        ["owner_id", "trashed_us", "id"],
        unique=False,
        sqlite_where=sa.text("trashed_us IS NOT NULL"),
        postgresql_where=sa.text("trashed_us IS NOT NULL"),
    )
    op.create_index(
        "uq_nodes_parent_id_sibling_key",
        "nodes",
        ["parent_id", "sibling_key"],
        unique=True,
        sqlite_where=sa.text("trashed_us IS NULL"),
        postgresql_where=sa.text("trashed_us IS NULL"),
    )
    op.create_index(
        "uq_nodes_root",
        "nodes",
        ["owner_id"],
        unique=True,
        sqlite_where=sa.text("parent_id IS NULL"),
        postgresql_where=sa.text("parent_id IS NULL"),
    )
    op.create_table(
        "objects",
        sa.Column("id", number, nullable=False),
        sa.Column("domain_id", number, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("table_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("asked_us", sa.BigInteger(), nullable=False),
        sa.Column("claimed_us", sa.BigInteger(), server_default="0", nullable=False),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], name=op.f("fk_objects_domain_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_objects")),
    )
    op.create_index(
        "ix_objects_checking",
        "objects",
        ["claimed_us"],
        unique=False,
        sqlite_where=sa.text("state = 'checking'"),
        postgresql_where=sa.text("state = 'checking'"),
    )
    op.create_index(
        op.f("ix_objects_domain_id_digest_table_hash"), "objects", ["domain_id", "digest", "table_hash"], unique=True
    )
    op.create_table(
        "packs",
        sa.Column("id", number, nullable=False),
        sa.Column("domain_id", number, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("blob_key", text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("condemned_us", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], name=op.f("fk_packs_domain_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_packs")),
        sa.UniqueConstraint("blob_key", name=op.f("uq_packs_blob_key")),
    )
    op.create_index(op.f("ix_packs_condemned_us"), "packs", ["condemned_us"], unique=False)
    op.create_index(op.f("ix_packs_domain_id_digest"), "packs", ["domain_id", "digest"], unique=True)
    op.create_table(
        "artifact_retentions",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("keep_last", sa.Integer(), nullable=True),
        sa.Column("ttl_s", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["node_id"], ["nodes.id"], name=op.f("fk_artifact_retentions_node_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_artifact_retentions")),
    )
    op.create_table(
        "artifact_versions",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("manifest_id", number, nullable=False),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.Column("created_by", text, nullable=False),
        sa.Column("pinned", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["manifest_id"], ["manifests.id"], name=op.f("fk_artifact_versions_manifest_id")),
        sa.ForeignKeyConstraint(
            ["node_id"], ["nodes.id"], name=op.f("fk_artifact_versions_node_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("node_id", "number", name=op.f("pk_artifact_versions")),
    )
    op.create_index(op.f("ix_artifact_versions_manifest_id"), "artifact_versions", ["manifest_id"], unique=False)
    op.create_table(
        "chunk_tables",
        sa.Column("object_id", number, nullable=False),
        sa.Column("bytes", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"], ["objects.id"], name=op.f("fk_chunk_tables_object_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("object_id", name=op.f("pk_chunk_tables")),
    )
    op.create_table(
        "chunks",
        sa.Column("id", number, nullable=False),
        sa.Column("domain_id", number, nullable=False),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("pack_id", number, nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("raw_bytes", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["domain_id"], ["domains.id"], name=op.f("fk_chunks_domain_id")),
        sa.ForeignKeyConstraint(["pack_id"], ["packs.id"], name=op.f("fk_chunks_pack_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_chunks")),
    )
    op.create_index(op.f("ix_chunks_domain_id_digest"), "chunks", ["domain_id", "digest"], unique=True)
    op.create_index(op.f("ix_chunks_pack_id_offset"), "chunks", ["pack_id", "offset"], unique=False)
    op.create_table(
        "commits",
        sa.Column("user_id", text, nullable=False),
        sa.Column("key", text, nullable=False),
        sa.Column("manifest_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("created", sa.Boolean(), nullable=False),
        sa.Column("at_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_commits_node_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("user_id", "key", name=op.f("pk_commits")),
    )
    op.create_index(op.f("ix_commits_at_us"), "commits", ["at_us"], unique=False)
    op.create_index(op.f("ix_commits_node_id"), "commits", ["node_id"], unique=False)
    op.create_table(
        "lease_packs",
        sa.Column("lease_id", sa.String(length=20), nullable=False),
        sa.Column("pack_id", number, nullable=False),
        sa.ForeignKeyConstraint(["lease_id"], ["leases.id"], name=op.f("fk_lease_packs_lease_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["pack_id"], ["packs.id"], name=op.f("fk_lease_packs_pack_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("lease_id", "pack_id", name=op.f("pk_lease_packs")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_lease_packs_pack_id"), "lease_packs", ["pack_id"], unique=False)
    op.create_table(
        "manifest_objects",
        sa.Column("manifest_id", number, nullable=False),
        sa.Column("object_id", number, nullable=False),
        sa.ForeignKeyConstraint(
            ["manifest_id"], ["manifests.id"], name=op.f("fk_manifest_objects_manifest_id"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["object_id"], ["objects.id"], name=op.f("fk_manifest_objects_object_id")),
        sa.PrimaryKeyConstraint("manifest_id", "object_id", name=op.f("pk_manifest_objects")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_manifest_objects_object_id"), "manifest_objects", ["object_id"], unique=False)
    op.create_table(
        "node_labels",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("label", text, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_node_labels_node_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node_id", "label", name=op.f("pk_node_labels")),
    )
    op.create_index(op.f("ix_node_labels_label_node_id"), "node_labels", ["label", "node_id"], unique=False)
    op.create_table(
        "runs",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("creator_id", sa.String(length=20), nullable=False),
        sa.Column("client_id", text, nullable=False),
        sa.Column("state", text, nullable=False),
        sa.Column("started_us", sa.BigInteger(), nullable=False),
        sa.Column("ended_us", sa.BigInteger(), nullable=True),
        sa.Column("heartbeat_us", sa.BigInteger(), nullable=False),
        sa.Column("log_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("metadata", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("hparams", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("platform", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("git", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(["creator_id"], ["users.id"], name=op.f("fk_runs_creator_id")),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_runs_node_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node_id", name=op.f("pk_runs")),
        sa.UniqueConstraint("creator_id", "client_id", name=op.f("uq_runs_creator_id_client_id")),
    )
    op.create_index(
        "ix_runs_alive",
        "runs",
        ["heartbeat_us"],
        unique=False,
        sqlite_where=sa.text("state = 'Running'"),
        postgresql_where=sa.text("state = 'Running'"),
    )
    op.create_table(
        "shares",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("grantee_kind", text, nullable=False),
        sa.Column("grantee_id", text, nullable=False),
        sa.Column("access", text, nullable=False),
        sa.Column("created_us", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_shares_node_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node_id", "grantee_kind", "grantee_id", name=op.f("pk_shares")),
    )
    op.create_index(
        op.f("ix_shares_grantee_kind_grantee_id_node_id"),
        "shares",
        ["grantee_kind", "grantee_id", "node_id"],
        unique=False,
    )
    op.create_table(
        "artifact_aliases",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("alias", text, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id", "number"],
            ["artifact_versions.node_id", "artifact_versions.number"],
            name=op.f("fk_artifact_aliases_node_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("node_id", "alias", name=op.f("pk_artifact_aliases")),
    )
    op.create_index(op.f("ix_artifact_aliases_node_id_number"), "artifact_aliases", ["node_id", "number"], unique=False)
    op.create_table(
        "edges",
        sa.Column("run_id", sa.String(length=20), nullable=False),
        sa.Column("side", text, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("node_id", sa.String(length=20), nullable=True),
        sa.Column("external_type", text, nullable=True),
        sa.Column("external_name", text, nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["nodes.id"], name=op.f("fk_edges_node_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.node_id"], name=op.f("fk_edges_run_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "side", "position", name=op.f("pk_edges")),
    )
    op.create_index(op.f("ix_edges_node_id_side_run_id"), "edges", ["node_id", "side", "run_id"], unique=False)
    op.create_table(
        "log_parts",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["node_id"], ["runs.node_id"], name=op.f("fk_log_parts_node_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node_id", "offset", name=op.f("pk_log_parts")),
    )
    op.create_table(
        "metric_blocks",
        sa.Column("id", sa.String(length=20), nullable=False),
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("type", text, nullable=False),
        sa.Column("session", sa.Integer(), nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.SmallInteger(), nullable=False),
        sa.Column("points", sa.Integer(), nullable=False),
        sa.Column("names", sa.Integer(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("batch", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["node_id"], ["runs.node_id"], name=op.f("fk_metric_blocks_node_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_metric_blocks")),
        sa.UniqueConstraint(
            "node_id",
            "type",
            "session",
            "first_sequence",
            name=op.f("uq_metric_blocks_node_id_type_session_first_sequence"),
        ),
    )
    op.create_index(
        "ix_metric_blocks_small",
        "metric_blocks",
        ["node_id", "type", "session", "points"],
        unique=False,
        sqlite_where=sa.text("level < 9"),
        postgresql_where=sa.text("level < 9"),
    )
    op.create_table(
        "metric_series",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("type", text, nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("logged", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.Double(), nullable=True),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.Column("last_session", sa.Integer(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("min", sa.Double(), nullable=True),
        sa.Column("max", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["node_id"], ["runs.node_id"], name=op.f("fk_metric_series_node_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("node_id", "type", "name", name=op.f("pk_metric_series")),
    )
    op.create_table(
        "metric_sessions",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("session", text, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"], ["runs.node_id"], name=op.f("fk_metric_sessions_node_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("node_id", "session", name=op.f("pk_metric_sessions")),
    )
    op.create_table(
        "metric_types",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("type", text, nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("first_step", sa.BigInteger(), nullable=False),
        sa.Column("last_step", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["node_id"], ["runs.node_id"], name=op.f("fk_metric_types_node_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("node_id", "type", name=op.f("pk_metric_types")),
    )
    op.create_table(
        "object_chunks",
        sa.Column("object_id", number, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("chunk_id", number, nullable=False),
        sa.ForeignKeyConstraint(["chunk_id"], ["chunks.id"], name=op.f("fk_object_chunks_chunk_id")),
        sa.ForeignKeyConstraint(
            ["object_id"], ["objects.id"], name=op.f("fk_object_chunks_object_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("object_id", "position", name=op.f("pk_object_chunks")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_object_chunks_chunk_id"), "object_chunks", ["chunk_id"], unique=False)
    op.create_table(
        "run_params",
        sa.Column("node_id", sa.String(length=20), nullable=False),
        sa.Column("key", text, nullable=False),
        sa.Column("number", sa.Double(), nullable=True),
        sa.Column("text", text, nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["runs.node_id"], name=op.f("fk_run_params_node_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("node_id", "key", name=op.f("pk_run_params")),
    )
    op.create_table(
        "metric_columns",
        sa.Column("block_id", sa.String(length=20), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["block_id"], ["metric_blocks.id"], name=op.f("fk_metric_columns_block_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("block_id", "number", name=op.f("pk_metric_columns")),
    )

"""Where chunks were before they were copied to another pack."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "moved_records",
        sa.Column("pack_id", number, nullable=False),
        sa.Column("offset", sa.BigInteger(), nullable=False),
        sa.Column("length", sa.Integer(), nullable=False),
        sa.Column("chunk_id", number, nullable=False),
        sa.ForeignKeyConstraint(["pack_id"], ["packs.id"], name=op.f("fk_moved_records_pack_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["chunk_id"], ["chunks.id"], name=op.f("fk_moved_records_chunk_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("pack_id", "offset", name=op.f("pk_moved_records")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_moved_records_chunk_id"), "moved_records", ["chunk_id"])

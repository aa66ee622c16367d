"""PostgreSQL keeps bytes that are packed, or soon will be, without trying to compress them."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table, column in (("metric_blocks", "batch"), ("metric_columns", "data"), ("log_parts", "data")):
            op.execute(f"ALTER TABLE {table} ALTER COLUMN {column} SET STORAGE EXTERNAL")

"""The collection of tables, and types of columns that both databases keep alike."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

Id = sa.String(20)
TimeUs = sa.BigInteger
Digest = sa.LargeBinary(32)

# Sorted and compared by bytes on both databases, whatever the locale.
Text = sa.Text().with_variant(postgresql.TEXT(collation="C"), "postgresql")

# JSON as text, in the order it came; a query never looks into it.
Json = sa.JSON(none_as_null=True)


class Number(sa.types.TypeDecorator[float]):
    """A double whose NaN is null: SQLite has none, and PostgreSQL would sort it above infinity."""

    impl = sa.Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> float | None:
        """NaN goes in as null."""
        return None if value is None or value != value else float(value)

"""The metadata database: tables, transactions, and all SQL."""

from t9k.aistore.db.database import Database

__all__ = ["Database"]

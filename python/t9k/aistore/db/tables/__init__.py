"""All tables. Times are microseconds since 1970 (`*_us`); digests are 32 bytes."""

from t9k.aistore.db.tables import accounts, artifacts, history, holds, runs, tree, turns
from t9k.aistore.db.tables.metadata import metadata

__all__ = ["accounts", "artifacts", "history", "holds", "metadata", "runs", "tree", "turns"]

"""Logs as JSON, one line a record, on standard error. Bodies, queries, keys and names of nodes are never logged."""

from __future__ import annotations

import json
import logging
import re
import sys
from datetime import UTC, datetime

_KEY = re.compile(r"em_pat_[0-9A-Za-z]+")


class JsonFormatter(logging.Formatter):
    """One record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without a newline."""
        document = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return _KEY.sub("em_pat_…", json.dumps(document, ensure_ascii=False))


def configure(level: str = "warning") -> None:
    """Sends the records of this process to standard error; requests are logged at ``info``."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # What it warns of follows an error that it raises: mostly of a transaction that met another and runs again.
    logging.getLogger("psycopg").setLevel(logging.ERROR)

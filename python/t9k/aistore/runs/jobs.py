"""What the background does for runs."""

from __future__ import annotations

from t9k.aistore.background import Job
from t9k.aistore.db import Database
from t9k.aistore.runs import records

LOOK_FOR_CRASHED_EVERY_S = 15.0


def run_jobs(database: Database, crashed_after_s: float) -> list[Job]:
    """The jobs; several processes may run them on one database."""
    return [
        Job("crashed runs", LOOK_FOR_CRASHED_EVERY_S, lambda: records.crash_silent(database, crashed_after_s)),
    ]

"""What the background does for runs."""

from __future__ import annotations

from t9k.aistore.background import Background, Job
from t9k.aistore.db import Database
from t9k.aistore.runs import records
from t9k.aistore.runs.compaction import compact

LOOK_FOR_CRASHED_EVERY_S = 15.0
COMPACT_EVERY_S = 5.0


def run_jobs(database: Database, background: Background, crashed_after_s: float) -> list[Job]:
    """The jobs; several processes may run them on one database."""
    return [
        Job("metric blocks", COMPACT_EVERY_S, lambda: compact(database, lambda: background.is_stopping)),
        Job("crashed runs", LOOK_FOR_CRASHED_EVERY_S, lambda: records.crash_silent(database, crashed_after_s)),
    ]

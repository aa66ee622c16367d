"""The background jobs of artifacts, and how often they run."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict

from t9k.aistore.artifacts import compaction, gc, verification
from t9k.aistore.background import Job
from t9k.aistore.blobs.store import BlobStore
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, turns
from t9k.aistore.settings import Settings

log = logging.getLogger("aistore.artifacts")

CHECK_OBJECTS = "check-objects"
"""Woken by each commit."""


def artifact_jobs(
    database: Database,
    blobs: BlobStore,
    settings: Settings,
    is_stopping: Callable[[], bool],
    note: Callable[[gc.Collected], None],
) -> list[Job]:
    """Hashing new objects, collecting garbage, sweeping what uploads that died have left.

    Args:
        database: Of the server.
        blobs: Of the server.
        settings: Of the server.
        is_stopping: Whether a job should return early.
        note: Told what each collection did.
    """

    def in_turn(name: str, every_s: int, work: Callable[[], object]) -> Job:
        """A job that one of all processes does, every so many seconds."""

        def run() -> None:
            if database.write(turns.take, name, now_us(), every_s * 1_000_000):
                work()

        return Job(name, every_s / 10, run)

    def collect() -> None:
        done = gc.collect(
            database,
            blobs,
            lease_s=settings.lease_s,
            grace_s=settings.gc_grace_s,
            limits=compaction.IN_BACKGROUND,
            is_stopping=is_stopping,
        )
        note(done)
        if done != gc.Collected():
            log.info("garbage was collected", extra={"fields": asdict(done)})

    return [
        Job(CHECK_OBJECTS, 60, lambda: verification.check_objects(database, blobs, is_stopping)),
        in_turn("collect-garbage", 600, collect),
        in_turn("sweep-orphans", 86_400, lambda: gc.sweep(database, blobs)),
    ]

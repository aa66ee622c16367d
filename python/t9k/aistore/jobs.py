"""The jobs of a server: what runs in the background, and how often."""

from __future__ import annotations

from t9k.aistore.artifacts.jobs import artifact_jobs
from t9k.aistore.background import Job
from t9k.aistore.runs.jobs import run_jobs
from t9k.aistore.services import Services
from t9k.aistore.tree import trash


def install(services: Services) -> None:
    """Adds the jobs; they run when the background is started."""
    background = services.background
    background.add(
        Job(
            trash.EMPTY_TRASH,
            3600,
            lambda: trash.expire(
                services.database, services.settings.trash_days, is_stopping=lambda: background.is_stopping
            ),
        )
    )
    for job in run_jobs(services.database, background, services.settings.crashed_after_s):
        background.add(job)
    for job in artifact_jobs(
        services.database,
        services.blobs,
        services.settings,
        is_stopping=lambda: background.is_stopping,
        note=lambda done: services.note_collected(done),
    ):
        background.add(job)

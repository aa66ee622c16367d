"""What a server process has open: handed to every route and background job."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from t9k.aistore.accounts.failures import FailureLimits
from t9k.aistore.artifacts.claims import Claims
from t9k.aistore.artifacts.gc import Collected
from t9k.aistore.background import Background
from t9k.aistore.blobs.store import BlobStore
from t9k.aistore.db import Database
from t9k.aistore.settings import Settings


@dataclass
class Services:
    """Opened by `open_services`, closed with `close`."""

    settings: Settings
    database: Database
    blobs: BlobStore
    background: Background
    failures: FailureLimits = field(default_factory=FailureLimits)
    claims: Claims = field(default_factory=Claims)
    note_collected: Callable[[Collected], None] = lambda _: None  # told what each collection in the background did

    def close(self) -> None:
        """Stops the background jobs, then closes the database."""
        self.background.stop()
        self.database.close()


def open_services(settings: Settings, *, schema: bool = True) -> Services:
    """Opens the database, brought to the newest schema unless `schema` is false, and the blob store."""
    from t9k.aistore import jobs
    from t9k.aistore.blobs.local import LocalBlobStore
    from t9k.aistore.db.schema import upgrade

    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if settings.sqlite_file is not None:  # SQLite gives the files beside it the mode that it has
        os.close(os.open(settings.sqlite_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database = Database(settings.url_of_database)
    if schema:
        upgrade(database)
    blobs = LocalBlobStore(settings.data_dir / "blobs")
    services = Services(settings, database, blobs, Background(), FailureLimits(processes=settings.workers))
    jobs.install(services)
    return services

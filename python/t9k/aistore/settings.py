"""Settings of a server: command line, else environment (``AISTORE_…``), else a TOML file, else defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def default_data_dir() -> Path:
    """``$XDG_DATA_HOME/aistore``, else ``~/.local/share/aistore``."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "aistore"


@dataclass(frozen=True)
class Settings:
    """Settings of a server process.

    Attributes:
        data_dir: Where blobs are, and the database if it is SQLite.
        database_url: Of PostgreSQL; None is SQLite in `data_dir`.
        packs_in_flight: Packs that are received and checked at once in a process; each takes up to 64 MiB.
        trash_days: Days until what was deleted is gone.
        crashed_after_s: Seconds without a heartbeat until a run counts as crashed.
        lease_s: Seconds that an upload keeps the garbage collector away after its last request.
    """

    data_dir: Path = field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = 8765
    database_url: str | None = None
    workers: int = 1
    packs_in_flight: int = 3
    trash_days: int = 30
    crashed_after_s: int = 180
    lease_s: int = 3600

    @property
    def url_of_database(self) -> str:
        """What SQLAlchemy opens."""
        return self.database_url or f"sqlite:///{self.data_dir / 'aistore.sqlite3'}"

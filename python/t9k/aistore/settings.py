"""Settings of a server process. `aistore.cli` takes them from options, environment and file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
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
        behind_proxy: Whether `X-Forwarded-For` and `X-Forwarded-Proto` of the peer are believed.
        cors_origins: Origins whose pages may call the API from a browser.
        log_level: ``info`` has a line for each request.
        lease_s: Seconds that an upload keeps the garbage collector away after its last request.
        gc_grace_s: Seconds until the bytes of what nothing reaches are deleted.
    """

    data_dir: Path = field(default_factory=default_data_dir)
    host: str = "127.0.0.1"
    port: int = 8765
    database_url: str | None = None
    workers: int = 1
    packs_in_flight: int = 3
    trash_days: int = 30
    crashed_after_s: int = 180
    behind_proxy: bool = False
    cors_origins: tuple[str, ...] = ()
    log_level: str = "warning"
    lease_s: int = 3600
    gc_grace_s: int = 86_400

    @property
    def sqlite_file(self) -> Path | None:
        """The database, if it is not another one."""
        return self.data_dir / "aistore.sqlite3" if self.database_url is None else None

    @property
    def url_of_database(self) -> str:
        """What SQLAlchemy opens."""
        return self.database_url or f"sqlite:///{self.sqlite_file}"

    def to_json(self) -> str:
        """For a worker process; see `from_json`."""
        return json.dumps(asdict(self) | {"data_dir": str(self.data_dir)})

    @classmethod
    def from_json(cls, text: str) -> Settings:
        """What `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"data_dir": Path(values["data_dir"]), "cors_origins": tuple(values["cors_origins"])})

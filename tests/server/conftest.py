"""An app in this process, and a server in one of its own.

Every test that takes `database`, `services`, `api` or `serving` runs on SQLite and on PostgreSQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Account, Serving, make_account, run_server
from starlette.testclient import TestClient
from t9k.aistore.api.app import make_app
from t9k.aistore.db import Database
from t9k.aistore.services import Services, open_services
from t9k.aistore.settings import Settings
from uploads import Uploader


@pytest.fixture
def settings(tmp_path: Path, database_url: str | None) -> Settings:
    """Settings of a server in the test's directory."""
    return Settings(data_dir=tmp_path / "aistore", port=0, database_url=database_url)


@pytest.fixture
def services(settings: Settings) -> Iterator[Services]:
    """Services of this process; the background does not run unless a test starts it."""
    opened = open_services(settings)
    yield opened
    opened.close()


@pytest.fixture
def database(services: Services) -> Database:
    """The database of `services`."""
    return services.database


@pytest.fixture
def ada(database: Database) -> Account:
    """A user."""
    return make_account(database, "ada")


@pytest.fixture
def bob(database: Database) -> Account:
    """Another user."""
    return make_account(database, "bob")


@pytest.fixture
def root(database: Database) -> Account:
    """An administrator."""
    return make_account(database, "root", "admin")


@pytest.fixture
def api(services: Services) -> Iterator[TestClient]:
    """The app, called in this process, without its background jobs."""
    client = TestClient(make_app(services), raise_server_exceptions=False)
    yield client
    client.close()


@pytest.fixture
def uploader(api: TestClient, ada: Account) -> Uploader:
    """Ada's client for artifacts."""
    return Uploader(api, ada)


@pytest.fixture
def other(api: TestClient, bob: Account) -> Uploader:
    """Bob's."""
    return Uploader(api, bob)


@pytest.fixture
def serving(tmp_path: Path, database_url: str | None) -> Iterator[Serving]:
    """A server in a process of its own, with an administrator's key."""
    with run_server(tmp_path / "served", database_url) as server:
        yield server

"""Migrations: what they make is what the tables say, from nothing and from each released revision, with its rows."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from harness import Account
from starlette.testclient import TestClient
from t9k.aistore import backup as backups
from t9k.aistore.accounts.caller import authenticate
from t9k.aistore.api.app import make_app
from t9k.aistore.artifacts.check import check
from t9k.aistore.db import Database, dump, migrations, tables
from t9k.aistore.db.schema import current, upgrade
from t9k.aistore.errors import Refusal
from t9k.aistore.services import open_services
from t9k.aistore.settings import Settings
from uploads import Content, Uploader, digest

RELEASED = sorted((Path(__file__).parents[1] / "fixtures").glob("aistore-*.tar.xz"))
"""A backup of each revision that was released, by its name."""


def described(database: Database) -> dict[str, Any]:
    """All tables as the database describes them."""

    def work(connection: sa.Connection) -> dict[str, Any]:
        inspector = sa.inspect(connection)
        found: dict[str, Any] = {}
        for name in sorted(inspector.get_table_names()):
            if name == "alembic_version":
                continue
            columns = [{**column, "type": str(column["type"])} for column in inspector.get_columns(name)]
            keys = sorted(inspector.get_foreign_keys(name), key=str)
            indexes = sorted(inspector.get_indexes(name), key=str)
            uniques = sorted(inspector.get_unique_constraints(name), key=str)
            primary = inspector.get_pk_constraint(name)
            found[name] = json.loads(json.dumps([columns, keys, indexes, uniques, primary], default=str))
        if connection.dialect.name == "sqlite":  # where the inspector leaves out the conditions of indices
            query = sa.text("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL")
            found["indices"] = sorted(map(tuple, connection.execute(query)))
        else:  # nor does it tell how long values are kept
            query = sa.text(
                "SELECT table_name, attname, attstorage FROM information_schema.tables "
                "JOIN pg_attribute ON attrelid = table_name::regclass "
                "WHERE table_schema = current_schema() AND table_name != 'alembic_version' AND attnum > 0"
            )
            found["storage"] = sorted(tuple(map(str, row)) for row in connection.execute(query))
        return found

    return database.read(work)


def empty(database: Database) -> None:
    """Removes all tables."""

    def work(connection: sa.Connection) -> None:
        found = sa.MetaData()
        found.reflect(connection)
        found.drop_all(connection)

    database.write(work)


def test_each_revision_before_the_newest_has_a_backup_here() -> None:
    """`python tests/fixtures/make_aistore.py` makes one, before the next revision changes the schema."""
    versions = Path(migrations.__file__).parent / "versions"
    revisions = [f"aistore-{path.name[:4]}.tar.xz" for path in sorted(versions.glob("[0-9]*.py"))]
    assert set(revisions[:-1]) <= {path.name for path in RELEASED} <= set(revisions)


def test_migrations_make_what_the_tables_say(database: Database) -> None:
    migrated = described(database)
    empty(database)
    database.migrate(tables.metadata.create_all)
    assert migrated == described(database)


@pytest.mark.parametrize("fixture", RELEASED, ids=lambda path: path.name)
def test_released_revision_is_brought_to_the_newest(
    fixture: Path, tmp_path: Path, settings: Settings, database: Database
) -> None:
    newest, schema = current(database), described(database)
    empty(database)
    with tarfile.open(fixture) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    document = json.loads((tmp_path / "old" / "backup.json").read_text())
    assert document["revision"] == fixture.name.removeprefix("aistore-").partition(".")[0]
    services = open_services(settings, schema=False)
    backups.restore(tmp_path / "old", services.database, services.blobs)
    assert current(services.database) == newest
    assert described(services.database) == schema
    rows = services.database.read(lambda connection: {name: len(list(rows)) for name, rows in dump.tables(connection)})
    assert {name: rows[name] for name in document["rows"]} == document["rows"]
    key = (tmp_path / "old" / "key.txt").read_text()
    ada = Account("ada", key, authenticate(services.database, key))
    with TestClient(make_app(services)) as client:
        uploader = Uploader(client, ada)
        artifact = uploader.call("GET", "/artifacts", params={"path": "/ada/default/a:best"}).json()
        assert (artifact["version"], artifact["node"]["owner"]) == (1, "ada")
        assert uploader.download(artifact["node"]["id"]) == {digest(b"one"): b"one", digest(b""): b""}
        run = uploader.call("GET", "/runs", params={"path": "/ada/shared/run"}).json()
        assert run["hparams"] == {"lr": 0.1}
        points = uploader.call("GET", f"/runs/{run['node']['id']}/metrics/train").json()
        assert points["values"] == {"loss": [3.0, 2.0, 1.0]}
        assert uploader.call("GET", f"/runs/{run['node']['id']}/log").content == b"a line\n"
        lineage = uploader.call("GET", f"/nodes/{artifact['node']['id']}/lineage").json()
        assert [link["run"] for link in lineage["links"]] == [run["node"]["id"]]
        assert [node["name"] for node in uploader.call("GET", "/trash").json()["nodes"]] == ["gone"]
        shares = uploader.call("GET", f"/nodes/{run['node']['id']}/shares").json()["shares"]
        assert [(share["grantee"], share["access"]) for share in shares] == [("bob", "view")]
        uploader.upload(Content({"new": [b"two", b"three"]}))
        assert list(check(services.database, services.blobs, read=True)) == []


def test_schema_of_a_newer_release_is_refused_and_left_alone(database: Database) -> None:
    database.write(lambda connection: connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(Refusal, match="schema 9999 of a newer release"):
        upgrade(database)
    assert current(database) == "9999"


def test_upgrade_again_changes_nothing(database: Database) -> None:
    before = described(database)
    upgrade(database)
    assert described(database) == before

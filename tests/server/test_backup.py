"""Backups of a running server, restored into both databases."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from harness import Account, make_account
from starlette.testclient import TestClient
from t9k.aistore import backup as backups
from t9k.aistore.accounts.caller import authenticate
from t9k.aistore.api.app import make_app
from t9k.aistore.artifacts.check import check
from t9k.aistore.cli import main
from t9k.aistore.db import dump, history
from t9k.aistore.errors import Refusal
from t9k.aistore.services import Services, open_services
from t9k.aistore.settings import Settings
from uploads import Content, Uploader

MakeUrl = Callable[[], str | None]


@pytest.fixture
def saved(services: Services, ada: Account, tmp_path: Path) -> Path:
    """A backup of a server with a user and three blobs."""
    for number in range(3):
        services.blobs.put_if_absent(f"packs/{number}", os.urandom(1000))
    backups.backup(services.database, services.blobs, tmp_path / "backup")
    return tmp_path / "backup"


@pytest.fixture
def other(tmp_path: Path, database_url: str | None) -> Settings:
    """Settings of a new server on SQLite: from PostgreSQL, a change of the database."""
    return Settings(data_dir=tmp_path / "other")


def test_restored_server_knows_keys_and_blobs(saved: Path, services: Services, ada: Account, other: Settings) -> None:
    restored = open_services(other, schema=False)
    backups.restore(saved, restored.database, restored.blobs)
    assert authenticate(restored.database, ada.key) == ada.caller
    for blob in services.blobs.list():
        assert restored.blobs.get(blob.key) == services.blobs.get(blob.key)
    ours, theirs = (
        place.database.read(lambda connection: {name: list(rows) for name, rows in dump.tables(connection)})
        for place in (services, restored)
    )
    assert ours | {"api_keys": theirs["api_keys"]} == theirs  # the last use of a key is noted meanwhile
    restored.close()


def test_each_name_of_a_backup_is_on_the_disk_before_it_counts(
    services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name is there after a power cut if its directory was synced since it was given."""
    services.blobs.put_if_absent("packs/0", os.urandom(1000))
    lost: set[Path] = set()
    sync, replace, link, mkdir = os.fsync, os.replace, os.link, os.mkdir

    def synced(descriptor: int) -> None:
        sync(descriptor)
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        lost.difference_update([name for name in lost if name.parent == target])

    def named(give: Callable[..., None], place: int) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            give(*arguments, **options)
            lost.add(Path(arguments[place]))

        return call

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", named(replace, 1))
    monkeypatch.setattr(os, "link", named(link, 1))
    monkeypatch.setattr(os, "mkdir", named(mkdir, 0))
    backups.backup(services.database, services.blobs, tmp_path / "new" / "backup")
    assert {name for name in lost if name.is_relative_to(tmp_path / "new")} == set()


def test_restored_server_takes_uploads(
    services: Services, ada: Account, tmp_path: Path, other: Settings, api: TestClient
) -> None:
    node_id = Uploader(api, ada).upload(Content({"x": [b"one", b"two"]}))["node"]["id"]
    backups.backup(services.database, services.blobs, tmp_path / "backup")
    restored = open_services(other, schema=False)
    backups.restore(tmp_path / "backup", restored.database, restored.blobs)
    with TestClient(make_app(restored)) as client:
        uploader = Uploader(client, ada)
        assert len(uploader.download(node_id)) == 1
        uploader.upload(Content({"y": [b"three", b"four"]}))
        assert list(check(restored.database, restored.blobs, read=True)) == []


def test_backup_from_sqlite_restores_into_postgresql(
    request: pytest.FixtureRequest, tmp_path: Path, services: Services, settings: Settings
) -> None:
    if settings.database_url is None:
        pytest.skip("the target is PostgreSQL")
    source = open_services(Settings(data_dir=tmp_path / "source"))
    account = make_account(source.database, "ada")
    with TestClient(make_app(source)) as client:
        Uploader(client, account).upload(Content({"x": [b"one", b"two"]}))
        backups.backup(source.database, source.blobs, tmp_path / "backup")
    with pytest.raises(Refusal, match="has tables already"):
        backups.restore(tmp_path / "backup", services.database, services.blobs)
    query = sa.text("SELECT current_schema()")
    empty = services.database.read(lambda connection: connection.execute(query).scalar_one())
    anew = f"DROP SCHEMA {empty} CASCADE; CREATE SCHEMA {empty}"
    services.database.write(lambda connection: connection.exec_driver_sql(anew))
    backups.restore(tmp_path / "backup", services.database, services.blobs)
    assert authenticate(services.database, account.key) == account.caller
    with TestClient(make_app(services)) as client:  # rows get numbers that no restored one has
        Uploader(client, account).upload(Content({"y": [b"three", b"four"]}))
        assert list(check(services.database, services.blobs, read=True)) == []


def test_backup_of_one_moment_while_users_are_added(services: Services, tmp_path: Path, other: Settings) -> None:
    stop = threading.Event()

    def add() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            make_account(services.database, f"user{number}")

    thread = threading.Thread(target=add)
    thread.start()
    try:
        for _ in range(3):
            backups.backup(services.database, services.blobs, tmp_path / "backup")
    finally:
        stop.set()
        thread.join()
    restored = open_services(other, schema=False)
    backups.restore(tmp_path / "backup", restored.database, restored.blobs)
    restored.close()


def test_backup_repeated_copies_only_new_blobs(saved: Path, services: Services) -> None:
    before = {path: path.stat().st_ino for path in (saved / "blobs").rglob("*") if path.is_file()}
    services.blobs.put_if_absent("packs/new", b"new")
    assert backups.backup(services.database, services.blobs, saved)["blobs"] == 4
    assert before.items() <= {path: path.stat().st_ino for path in (saved / "blobs").rglob("*")}.items()


def test_interrupted_backup_is_none(saved: Path, other: Settings) -> None:
    (saved / "backup.json").unlink()
    restored = open_services(other, schema=False)
    with pytest.raises(Refusal, match="is not a backup"):
        backups.restore(saved, restored.database, restored.blobs)
    restored.close()


def test_backup_with_a_lost_row_is_refused_whole(saved: Path, other: Settings) -> None:
    path = saved / "tables" / "nodes.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    restored = open_services(other, schema=False)
    with pytest.raises(Refusal, match=r"nodes\.jsonl has"):
        backups.restore(saved, restored.database, restored.blobs)
    assert not restored.database.read(lambda c: list(dict(dump.tables(c))["users"]))
    restored.close()


def test_backup_into_a_foreign_directory_is_refused(services: Services, tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(Refusal, match="not a backup"):
        backups.backup(services.database, services.blobs, tmp_path)


def test_blobs_are_held_during_a_backup(services: Services, tmp_path: Path) -> None:
    held = []
    services.blobs.put_if_absent("packs/1", b"1")
    backups.backup(
        services.database,
        services.blobs,
        tmp_path / "backup",
        lambda *_: held.append(services.database.read(dump.are_blobs_held)),
    )
    assert held == [True]
    assert not services.database.read(dump.are_blobs_held)


def test_command_line_backs_up_and_restores(saved: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(main, ["--data", str(tmp_path / "cli"), "restore", str(saved), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["blobs"] == 3
    result = runner.invoke(main, ["--data", str(tmp_path / "cli"), "backup", str(tmp_path / "again")])
    assert result.exit_code == 0, result.output
    assert "3 blobs" in result.output


def test_restored_database_refuses_what_relies_on_the_lost_one(
    saved: Path, api: TestClient, ada: Account, other: Settings
) -> None:
    before = api.get("/api/v1/session", headers=ada.headers).headers["EM-History"]
    restored = open_services(other, schema=False)
    backups.restore(saved, restored.database, restored.blobs)
    for headers, status in (({}, 200), ({"EM-History": before}, 412)):
        with TestClient(make_app(open_services(other))) as client:
            answer = client.get("/api/v1/session", headers={**ada.headers, **headers})
            assert answer.status_code == status
            assert answer.headers["EM-History"] != before
    assert api.get("/api/v1/session", headers={**ada.headers, "EM-History": before}).status_code == 200
    restored.close()


def test_database_that_was_put_back_by_other_means_is_told_to_clients(tmp_path: Path) -> None:
    place = ["--data", str(tmp_path / "cli")]
    runner = CliRunner()
    found = []
    for options in ([], [], ["--restored"], []):
        assert runner.invoke(main, [*place, "migrate", *options]).exit_code == 0
        services = open_services(Settings(data_dir=tmp_path / "cli"))
        found.append(services.database.read(history.current))
        services.close()
    assert found[0] == found[1] != found[2] == found[3]

"""The database as a process has it: connections that were lost, and how often it is asked for what comes often."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from fastapi.testclient import TestClient
from harness import Account, statements
from run_records import new_run
from t9k.aistore.db import Database
from t9k.aistore.db.tables.accounts import groups, users

PID = sa.text("SELECT pg_backend_pid()")


@pytest.fixture
def narrow(database: Database) -> Iterator[Database]:
    """The database through one connection."""
    if database.is_sqlite:
        pytest.skip("SQLite has no connections that could be lost")
    narrow = Database(database.url.render_as_string(hide_password=False), pool_size=1)
    yield narrow
    narrow.close()


def lose(database: Database, pid: int) -> None:
    """As a restart of PostgreSQL does: the connection is dead, and nobody has told the pool."""
    database.query(lambda connection: connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid}))


def add(connection: sa.Connection, name: str) -> str:
    connection.execute(sa.insert(groups).values(id=name, name=name, created_us=1))
    return name


def test_restart_of_postgresql_is_noticed_by_nobody(database: Database, narrow: Database) -> None:
    works = {
        "read": lambda: narrow.read(lambda connection: connection.execute(sa.select(users.c.id)).all()),
        "query": lambda: narrow.query(lambda connection: connection.execute(sa.select(users.c.id)).all()),
        "write": lambda: narrow.write(add, "written"),
        "write to a run": lambda: narrow.write_to_run("r", lambda connection: add(connection, "of-a-run")),
    }
    for work in works.values():
        before = narrow.query(lambda connection: connection.execute(PID).scalar_one())
        lose(database, before)
        work()
        assert narrow.query(lambda connection: connection.execute(PID).scalar_one()) != before
    found = database.read(lambda connection: set(connection.execute(sa.select(groups.c.name)).scalars()))
    assert found == {"written", "of-a-run"}


def test_connection_that_is_lost_in_a_write_is_an_error_and_writes_nothing(
    database: Database, narrow: Database
) -> None:
    tries = []

    def work(connection: sa.Connection) -> None:
        tries.append(1)
        add(connection, "half")
        lose(database, connection.execute(PID).scalar_one())
        add(connection, "whole")

    with pytest.raises(sa.exc.DBAPIError):
        narrow.write(work)
    assert len(tries) == 1
    assert database.read(lambda connection: connection.execute(sa.select(groups.c.name)).all()) == []


@pytest.mark.parametrize(
    ("path", "count"),
    [("/nodes?path=/ada/default", 4), ("/nodes?path=/ada/default/deep/er/run", 4), ("/nodes/{id}", 3), ("/session", 1)],
)
def test_what_comes_often_takes_few_queries(
    api: TestClient, ada: Account, database: Database, path: str, count: int
) -> None:
    """One for the key; then the way down, the node with all that decides who may see it, and its labels."""
    api.post("/api/v1/folders", json={"path": "/ada/default/deep/er", "parents": True}, headers=ada.headers)
    run_id = new_run(api, ada)
    moved = api.patch(
        f"/api/v1/nodes/{run_id}",
        json={
            "name": "run",
            "parent_id": api.get("/api/v1/nodes?path=/ada/default/deep/er", headers=ada.headers).json()["id"],
        },
        headers=ada.headers,
    )
    assert moved.status_code == 200
    with statements(database) as sent:
        answer = api.get("/api/v1" + path.format(id=run_id), headers=ada.headers)
    assert answer.status_code == 200
    queries = [statement for statement in sent if not statement.startswith("BEGIN")]
    assert len(queries) == count, queries

"""Writes of several processes that meet: all succeed, and none runs again without end."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from harness import Account
from run_records import batch
from starlette.testclient import TestClient
from t9k.aistore.db import Database
from t9k.aistore.db import database as module
from t9k.aistore.db.tables.accounts import groups
from t9k.aistore.runs import batches, compaction, points, records
from t9k.aistore.services import Services
from t9k.aistore.tree.placement import Placement
from t9k.protocol.metric_batch import encode_batch

WRITERS = 10
ROUNDS = 8
SENDERS, BATCHES = 4, 40


@pytest.fixture
def databases(services: Services) -> Iterator[list[Database]]:
    """The database as two processes have it: nothing is shared in memory."""
    second = Database(services.settings.url_of_database)
    yield [services.database, second]
    second.close()


def test_transactions_that_meet_all_succeed_and_the_unlucky_run_alone(databases: list[Database]) -> None:
    """Each reads all rows and adds one that depends on them: of those at once only one can be right."""
    tries: Counter[tuple[int, int]] = Counter()
    barrier = threading.Barrier(WRITERS)

    def count_up(writer: int) -> None:
        barrier.wait()
        for turn in range(ROUNDS):

            def work(connection: sa.Connection, key: tuple[int, int] = (writer, turn)) -> None:
                tries[key] += 1
                number = connection.execute(sa.select(sa.func.count()).select_from(groups)).scalar_one()
                connection.execute(sa.insert(groups).values(id=str(number), name=str(number), created_us=number))

            databases[writer % 2].write(work)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(count_up, range(WRITERS)))
    numbers = databases[0].read(lambda connection: list(connection.execute(sa.select(groups.c.created_us)).scalars()))
    assert sorted(numbers) == list(range(WRITERS * ROUNDS))
    assert max(tries.values()) <= module.FREE_ATTEMPTS + 1


def test_full_disk_of_postgresql_is_507(database: Database, api: TestClient, ada: Account) -> None:
    if database.is_sqlite:
        pytest.skip("a real file system that is full: test_kill_uploads.py")
    fail = """CREATE FUNCTION fail() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100';
        END $$ LANGUAGE plpgsql; CREATE TRIGGER full_disk BEFORE INSERT ON nodes EXECUTE FUNCTION fail()"""
    database.write(lambda connection: connection.exec_driver_sql(fail))
    response = api.post("/api/v1/folders", json={"path": "/ada/x"}, headers=ada.headers)
    assert (response.status_code, response.json()["kind"]) == (507, "store")
    database.write(lambda connection: connection.exec_driver_sql("DROP TRIGGER full_disk ON nodes"))
    assert api.post("/api/v1/folders", json={"path": "/ada/x"}, headers=ada.headers).status_code == 201


def make_run(database: Database, account: Account, name: str) -> str:
    place = Placement(f"/{account.name}/default", name)
    return database.write(
        lambda connection: records.create(connection, account.caller, name, place, records.Parts()).node_id
    )


def test_batches_of_two_processes_beside_merging_run_once_each(
    databases: list[Database], ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_ids = [make_run(databases[0], ada, f"run-{number}") for number in range(2)]
    stored = _counted(monkeypatch, batches, "_store")
    is_over = threading.Event()

    def merge(database: Database) -> int:
        made = 0
        while not is_over.wait(0.02):
            made += compaction.compact(database)
        return made

    def send(writer: int) -> None:
        for sequence in range(BATCHES):
            for run_id in run_ids if writer % 2 else reversed(run_ids):
                data = encode_batch(batch(sequence, 1, loss=[float(sequence)]))
                database = databases[writer % 2]
                assert batches.put(database, ada.caller, run_id, "train", f"s{writer}", sequence, data).result()

    with ThreadPoolExecutor(8) as pool:
        mergers = [pool.submit(merge, database) for database in databases]
        try:
            list(pool.map(send, range(SENDERS)))
        finally:
            is_over.set()
        assert sum(merger.result() for merger in mergers) > 0
    assert sum(stored) == SENDERS * BATCHES * len(run_ids)  # none met another that made it run again
    for run_id in run_ids:
        ((kind, (loss,)),) = databases[0].read(points.overview, ada.caller, run_id)
        assert (kind.points, loss.logged, loss.last) == (SENDERS * BATCHES, SENDERS * BATCHES, BATCHES - 1)


def _counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[int]:
    """How many items each call of a work gets, from now on."""
    counts: list[int] = []
    original: Callable[..., Any] = getattr(owner, name)

    def counting(connection: sa.Connection, items: Sequence[Any]) -> Any:
        counts.append(len(items))
        return original(connection, items)

    monkeypatch.setattr(owner, name, counting)
    return counts


REFUSED = """
import sys
import sqlalchemy as sa
from t9k.aistore import logs
from t9k.aistore.db import Database
from t9k.aistore.db.tables.accounts import groups
logs.configure()
rows = [{"id": str(number % 900), "name": str(number % 900), "created_us": 0} for number in range(5000)]
try:
    Database(sys.argv[1]).write(lambda connection: connection.execute(sa.insert(groups), rows))
except sa.exc.IntegrityError:
    print("refused")
"""


def test_many_rows_of_which_one_is_refused_are_one_error_and_no_warning(services: Services) -> None:
    command = [sys.executable, "-c", REFUSED, services.settings.url_of_database]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("refused\n", "")

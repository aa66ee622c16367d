"""How the database finds things among a million rows: by an index, for each row of a batch."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from harness import Account, make_account
from t9k.aistore.artifacts import presence
from t9k.aistore.db import Database, bulk, leases, objects, packs
from t9k.aistore.db.tables import artifacts as tables
from t9k.aistore.services import open_services
from t9k.aistore.settings import Settings

ROWS = 1_000_000


def name(number: int) -> bytes:
    return hashlib.sha256(b"%d" % number).digest()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Database, Account]]:
    """A database with a million objects of a chunk each, in 1,000 packs."""
    url = None
    if request.param == "postgresql":
        base = request.getfixturevalue("postgresql")
        admin = sa.create_engine(base.format("postgres").replace("postgresql:", "postgresql+psycopg:"))
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("CREATE DATABASE scale")
        admin.dispose()
        url = base.format("scale")
    services = open_services(Settings(data_dir=tmp_path_factory.mktemp("scale"), database_url=url))
    database = services.database
    ada = make_account(database, "ada")

    def fill(connection: sa.Connection) -> None:
        if not database.is_sqlite:  # its checks of foreign keys, one for each row, take most of the time
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        domain = leases.make_domain(connection, ada.caller.domain)
        rows = [
            {"id": n, "domain_id": domain, "digest": name(-n), "blob_key": f"{n}", "size_bytes": 1, "created_us": 1}
            for n in range(1, 1001)
        ]
        connection.execute(sa.insert(tables.packs), rows)
        for start in range(0, ROWS, bulk.BATCH_ROWS):
            numbers = range(start, start + bulk.BATCH_ROWS)
            batch = bulk.table_of(
                connection,
                id=(sa.BigInteger, [n + 1 for n in numbers]),
                digest=(sa.LargeBinary, [name(n) for n in numbers]),
            )
            one, places = sa.literal(1), sa.cast(batch.c.id % 1000 + 1, sa.BigInteger)
            chunk = sa.select(batch.c.id, sa.literal(domain), batch.c.digest, places, batch.c.id * 100, one, one)
            columns = ["id", "domain_id", "digest", "pack_id", "offset", "length", "raw_bytes"]
            connection.execute(sa.insert(tables.chunks).from_select(columns, chunk))
            state, zero = sa.literal(tables.COMPLETE), sa.literal(0)
            made = sa.select(
                batch.c.id, sa.literal(domain), batch.c.digest, sa.literal(b"", sa.LargeBinary), one, state, zero
            )
            columns = ["id", "domain_id", "digest", "table_hash", "size_bytes", "state", "asked_us"]
            connection.execute(sa.insert(tables.objects).from_select(columns, made))

    database.write(fill)
    if not database.is_sqlite:  # as the autovacuum daemon does by itself
        database.write(lambda connection: connection.exec_driver_sql("ANALYZE"))
    yield database, ada
    services.close()


def plan_of(database: Database, query: sa.Select[tuple[object]], given: dict[str, object]) -> str:
    """What EXPLAIN says of a query with these parameters."""

    def work(connection: sa.Connection) -> str:
        compiled = query.compile(connection, compile_kwargs={"literal_binds": False})
        prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
        values = compiled.construct_params(given)
        parameters = tuple(values[key] for key in compiled.positiontup) if compiled.positiontup else values
        rows = connection.exec_driver_sql(prefix + str(compiled), parameters)
        return "\n".join(str(row[-1]) for row in rows)

    return database.read(work)


def query_for(database: Database, domain: str, kind: str) -> tuple[sa.Select[tuple[object]], dict[str, object]]:
    asked = [name(n) for n in range(1000)]
    if kind == "missing":
        dialect = "sqlite" if database.is_sqlite else "postgresql"
        return packs._present(dialect), {"domain": domain, **bulk.values_of(dialect, "batch", digest=asked)}

    def build(connection: sa.Connection) -> sa.Select[tuple[object]]:
        return objects._complete(bulk.table_of(connection, digest=(sa.LargeBinary, asked)), 1, 0)

    return database.read(build), {}


@pytest.mark.parametrize("kind", ["plan", "missing"])
def test_batch_is_looked_up_by_index(filled: tuple[Database, Account], kind: str) -> None:
    database, ada = filled
    plan = plan_of(database, *query_for(database, ada.caller.domain, kind))
    table = "objects" if kind == "plan" else "chunks"
    if database.is_sqlite:
        assert re.search(rf"SEARCH {table} USING (COVERING )?INDEX \w+ \(domain_id=\? AND digest=\?", plan), plan
        assert re.findall(r"SCAN (\w+)", plan) == ["each"], plan
    else:
        assert re.search(rf"Index (Only )?Scan using \w+ on {table}", plan), plan
        assert f"Seq Scan on {table}" not in plan


def test_plan_and_missing_answer_among_a_million(filled: tuple[Database, Account]) -> None:
    database, ada = filled
    asked = [name(n) for n in range(0, 2 * ROWS, 41)]  # half of them are there
    body = b"".join(digest + struct.pack("<Q", 1) for digest in asked)
    bitmap = presence.plan(database, ada.caller, body)
    expected = [n >= ROWS for n in range(0, 2 * ROWS, 41)]
    assert [bool(bitmap[at >> 3] >> (at & 7) & 1) for at in range(len(asked))] == expected
    answer = presence.missing(database, ada.caller, None, b"".join(asked), 3600)[20:]
    assert [bool(answer[at >> 3] >> (at & 7) & 1) for at in range(len(asked))] == expected

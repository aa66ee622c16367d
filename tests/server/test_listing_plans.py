"""Listings use their indices: in a folder of many nodes, a page at any depth reads as much as the first.

Counted, not timed: steps of SQLite's virtual machine, and blocks that PostgreSQL reads. A million nodes take minutes:
`AISTORE_LISTED_NODES=1000000` has them.
"""

from __future__ import annotations

import os
import re
from typing import Any

import sqlalchemy as sa
from harness import Account
from t9k.aistore.db import Database, filters, listing, nodes
from t9k.aistore.db.tables.runs import metric_series, runs
from t9k.aistore.db.tables.tree import nodes as table
from t9k.aistore.tree.query import parse_filter

IN_FOLDER = int(os.environ.get("AISTORE_LISTED_NODES", "100000"))
ELSEWHERE = 20_000
PAGE = 100
MOST_OF_A_NODE = {True: 0.5, False: 5}
"""Of what `cost` counts, hundreds of steps on SQLite and else blocks, that a filter by a metric may take for a node."""


def fill(database: Database, account: Account, in_folder: int = IN_FOLDER, elsewhere: int = ELSEWHERE) -> str:
    """Adds nodes in bulk; answers the folder that has the first of them."""

    def work(connection: sa.Connection) -> str:
        root, owner_id = nodes.descend(connection, [], user_name=account.name)[0].id, account.caller.user_id
        big, rest = (
            nodes.insert(connection, nodes.NewNode(root, owner_id, "Folder", name), 1) for name in ("big", "rest")
        )
        if not database.is_sqlite:  # its checks of foreign keys, one for each row, take most of the time
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for parent, mark, count in ((big, "a", in_folder), (rest, "b", elsewhere)):
            if count:
                insert_numbered(connection, parent, owner_id, mark, count)
        return big

    folder = database.write(work)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if database.is_sqlite else "VACUUM ANALYZE nodes")
    return folder


def insert_numbered(connection: sa.Connection, parent_id: str, owner_id: str, mark: str, count: int) -> None:
    """Adds nodes whose orders by name, creation and change differ, without their rows coming from here."""
    numbers = sa.select(sa.literal(0, sa.BigInteger).label("n")).cte("numbers", recursive=True)
    numbers = numbers.union_all(sa.select(numbers.c.n + 1).where(numbers.c.n + 1 < count))
    n = numbers.c.n
    name = "run " + sa.cast(n * 7919 % 1_000_003 + 10_000_000, sa.Text)
    kind = sa.case((n % 3 == 0, "Run"), (n % 3 == 1, "Artifact"), else_="Folder")
    values = {
        "id": mark + sa.cast(n + 10**18, sa.Text),
        "parent_id": sa.literal(parent_id),
        "owner_id": sa.literal(owner_id),
        "kind": kind,
        "name": name,
        "name_key": name,
        "sibling_key": name,
        "version": sa.literal(1),
        "created_us": n,
        "changed_us": n * 31 % 100_003,
    }
    connection.execute(sa.insert(table).from_select(list(values), sa.select(*values.values())))


def plan(database: Database, query: sa.Select[Any]) -> str:
    """The plan of a query, in the database's words."""
    text = str(query.compile(database.engine, compile_kwargs={"literal_binds": True}))
    prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    with database.engine.connect() as connection:
        return "\n".join(str(line) for line in connection.exec_driver_sql(prefix + text.replace("%", "%%")))


def cost(database: Database, query: sa.Select[Any]) -> int:
    """How much work a query is: hundreds of steps, or blocks."""
    text = str(query.compile(database.engine, compile_kwargs={"literal_binds": True}))
    with database.engine.connect() as connection:
        if not database.is_sqlite:
            explained = connection.exec_driver_sql(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {text}").scalar()
            found = explained[0]["Plan"]
            return int(found["Shared Hit Blocks"] + found["Shared Read Blocks"])
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(count, 100)
        connection.exec_driver_sql(text).all()
        driver.set_progress_handler(None, 0)
        return steps


def test_listings_of_a_large_folder_use_indices_at_any_depth(database: Database, ada: Account) -> None:
    big_folder = fill(database, ada)
    check_pages(database, big_folder)
    check_lookups(database, ada, big_folder)
    check_rare_filter(database, ada, big_folder)


def check_pages(database: Database, big_folder: str) -> None:
    """Every order, both ways, at three depths.

    Not in the last hundredth: PostgreSQL knows values by hundredths, and of less it may fetch and sort what is left.
    """
    indices = {order: f"ix_nodes_by_{order}" for order in listing.ORDERS}
    for order, columns in listing.ORDERS.items():
        for descending in (False, True):
            direction = [column.desc() if descending else column for column in columns]
            costs = []
            for depth in (0, IN_FOLDER // 2, IN_FOLDER * 95 // 100):
                after = None
                if depth:
                    found = sa.select(*columns).where(table.c.parent_id == big_folder)
                    found = found.order_by(*direction).offset(depth).limit(1)
                    after = list(database.read(lambda c, found=found: c.execute(found).one()))
                query = listing.children_query(big_folder, order, descending, after, PAGE + 1)
                explained = plan(database, query)
                assert indices[order] in explained, (order, explained)
                assert "TEMP B-TREE" not in explained
                assert "Seq Scan" not in explained
                # PostgreSQL may sort the few rows that it expects at the end; never a folder's.
                assert all(int(rows) <= PAGE for rows in re.findall(r"Sort .*rows=(\d+)", explained))
                costs.append(cost(database, query))
            assert max(costs) <= 2 * min(costs) + 20, (order, descending, costs)


def check_lookups(database: Database, ada: Account, big_folder: str) -> None:
    """A name in the folder, the trash, and what expires."""
    with_name = sa.select(table).where(
        table.c.parent_id == big_folder, table.c.sibling_key == "run 10007919", table.c.trashed_us.is_(None)
    )
    trashed = (
        sa.select(table)
        .where(table.c.owner_id == ada.caller.user_id, table.c.trashed_us > 0)
        .order_by(table.c.trashed_us.desc(), table.c.id.desc())
        .limit(PAGE)
    )
    expiring = sa.select(table.c.id).where(table.c.trashed_us.is_not(None), table.c.trashed_us < 1000).limit(PAGE)
    for query in (with_name, trashed, expiring):
        assert cost(database, query) <= 20, plan(database, query)


def check_rare_filter(database: Database, ada: Account, big_folder: str) -> None:
    """A filter that few of many runs match walks the folder once, in order, and looks up each run's metric at most."""
    database.write(add_metric, ada.caller.user_id, big_folder)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for name in ("runs", "metric_series"):
            connection.exec_driver_sql(f"ANALYZE {name}" if database.is_sqlite else f"VACUUM ANALYZE {name}")
    query = listing.children_query(big_folder, "name", False, None, PAGE + 1)
    query = query.where(filters.condition(parse_filter("metric.train.loss < 10")))
    explained = plan(database, query)
    assert len(database.read(lambda connection: connection.execute(query).all())) == 4
    if database.is_sqlite:
        assert "ix_nodes_by_name" in explained
        assert "TEMP B-TREE" not in explained
    assert cost(database, query) <= IN_FOLDER * MOST_OF_A_NODE[database.is_sqlite], explained


def add_metric(connection: sa.Connection, creator_id: str, folder_id: str) -> None:
    """Gives each run of a folder a metric whose last value counts up."""
    is_run = (table.c.parent_id == folder_id) & (table.c.kind == "Run")
    empty, zero = sa.literal({}, runs.c.metadata.type), sa.literal(0)
    run = {
        "node_id": table.c.id,
        "creator_id": sa.literal(creator_id),
        "client_id": table.c.id,
        "state": sa.literal("Complete"),
        "started_us": zero,
        "heartbeat_us": zero,
        "metadata": empty,
        "hparams": empty,
        "platform": empty,
        "git": empty,
    }
    series = {
        "node_id": table.c.id,
        "type": sa.literal("train"),
        "name": sa.literal("loss"),
        "last": sa.cast(table.c.created_us, metric_series.c.last.type),
    } | dict.fromkeys(("number", "logged", "last_step", "last_session", "last_sequence"), zero)
    for target, values in ((runs, run), (metric_series, series)):
        connection.execute(sa.insert(target).from_select(list(values), sa.select(*values.values()).where(is_run)))

"""Listings use their indices: in a folder of 100,000 nodes, a page at any depth reads as much as the first.

A million nodes take minutes to insert; the plans are those of 100,000 beside 20,000 others.

Counted, not timed: steps of SQLite's virtual machine, and blocks that PostgreSQL reads.
"""

from __future__ import annotations

import re
from typing import Any

import sqlalchemy as sa
from harness import Account
from t9k.aistore.clock import new_id
from t9k.aistore.db import Database, listing, nodes
from t9k.aistore.db.tables.tree import nodes as table

IN_FOLDER, ELSEWHERE, AT_ONCE = 100_000, 20_000, 10_000
PAGE = 100


def fill(database: Database, account: Account, in_folder: int = IN_FOLDER, elsewhere: int = ELSEWHERE) -> str:
    """Adds nodes in bulk; answers the folder that has the first of them."""

    def work(connection: sa.Connection) -> str:
        root = nodes.root_of(connection, account.name)
        assert root is not None
        folders = [
            nodes.insert(connection, nodes.NewNode(root.id, root.owner_id, "Folder", name), 1)
            for name in ("big", "rest")
        ]
        for parent, count in zip(folders, (in_folder, elsewhere), strict=True):
            for first in range(0, count, AT_ONCE):
                numbers = range(first, min(first + AT_ONCE, count))
                nodes.insert_rows(connection, [row(parent, root.owner_id, number) for number in numbers])
        return folders[0]

    folder = database.write(work)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if database.is_sqlite else "VACUUM ANALYZE nodes")
    return folder


def row(parent_id: str, owner_id: str, number: int) -> dict[str, Any]:
    name = f"run {number * 7919 % 1_000_003:07}"
    return {
        "id": new_id(),
        "parent_id": parent_id,
        "owner_id": owner_id,
        "kind": ("Run", "Artifact", "Folder")[number % 3],
        "name": name,
        "name_key": name,
        "sibling_key": name,
        "ignore_case": False,
        "alternative_name": None,
        "description": "",
        "target_id": None,
        "version": 1,
        "created_us": number,
        "changed_us": number * 31 % 100_003,
    }


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


def check_pages(database: Database, big_folder: str) -> None:
    """Every order, both ways, at three depths."""
    indices = {order: f"ix_nodes_by_{order}" for order in listing.ORDERS}
    for order, columns in listing.ORDERS.items():
        for descending in (False, True):
            direction = [column.desc() if descending else column for column in columns]
            costs = []
            for depth in (0, 50_000, 99_000):
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
        table.c.parent_id == big_folder, table.c.sibling_key == "run 0007919", table.c.trashed_us.is_(None)
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

"""The frequent queries of runs use an index, on both databases, whatever the number of runs."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from t9k.aistore.db import Database, lineage, metric_arrivals, metrics, run_logs, runs, sharing, versions


def plans(database: Database, work: Any) -> list[str]:
    """The plans of all SELECT, UPDATE and DELETE statements that a function of a connection sends."""
    found: list[str] = []
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "

    def note(connection: sa.Connection, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")):
            raw = connection.connection.cursor()
            raw.execute(explain + statement, parameters)
            found.append("\n".join(str(row[-1]) for row in raw.fetchall()))
            raw.close()

    def run(connection: sa.Connection) -> None:
        if not database.is_sqlite:
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # or empty tables are read whole
        sa.event.listen(database.engine, "before_cursor_execute", note)
        try:
            work(connection)
        finally:
            sa.event.remove(database.engine, "before_cursor_execute", note)

    database.write(run)
    return found


HOT = {
    "run by id": lambda c: runs.by_id(c, "r"),
    "run by client": lambda c: runs.by_client(c, "u", "c"),
    "heartbeat": lambda c: runs.beat(c, "r", 1),
    "crashed runs": lambda c: runs.crash_silent(c, 1),
    "places of batches": lambda c: metric_arrivals.places_of(c, [("r", "train", "s", 5), ("q", "val", "t", 0)]),
    "a type": lambda c: metrics.type_of(c, "r", "train"),
    "series of batches": lambda c: metric_arrivals.series_at(c, [("r", "train", "a"), ("q", "val", "b")]),
    "some series of a type": lambda c: metrics.series_of(c, "r", "train", ["a", "b"]),
    "series of a type": lambda c: metrics.series_of(c, "r", "train"),
    "types of a run": lambda c: metrics.types_of(c, "r"),
    "blocks of a range": lambda c: metrics.blocks_of(c, "r", "train", first_step=1, last_step=9, after=(0, 3)),
    "columns": lambda c: metrics.columns_of(c, ["b"], [0, 1]),
    "end of a log": lambda c: run_logs.last_part(c, "r"),
    "range of a log": lambda c: run_logs.parts_from(c, "r", 0, 10, 16),
    "edges of runs": lambda c: lineage.edges_of_runs(c, ["r", "s"], ["input"], 10),
    "edges to nodes": lambda c: lineage.edges_to_nodes(c, ["n", "m"], ["output"], 10),
}


@pytest.mark.parametrize("name", HOT)
def test_hot_query_uses_an_index(database: Database, name: str) -> None:
    found = plans(database, HOT[name])
    assert found
    for plan in found:
        assert "Seq Scan" not in plan
        assert not any(
            line.startswith("SCAN") and not line.startswith("SCAN each VIRTUAL TABLE")  # that is the parameter
            for line in plan.splitlines()
        ), plan


def test_artifacts_with_an_object_are_found_by_its_digest(database: Database) -> None:
    owners = sharing.seen_owners("u", ["g"])
    (plan,) = plans(database, lambda connection: versions.holding(connection, bytes(32), owners, 10))
    assert "ix_objects_domain_id" in plan
    assert "SCAN objects" not in plan


def test_compaction_looks_through_small_blocks_only(database: Database) -> None:
    (plan,) = plans(database, lambda connection: metrics.crowded(connection, 16, 1000))
    assert "ix_metric_blocks_small" in plan


def test_crashed_runs_are_found_among_running_ones_only(database: Database) -> None:
    (plan,) = plans(database, lambda connection: runs.crash_silent(connection, 1))
    assert "ix_runs_alive" in plan

"""Merging of blocks: few are left, few are written twice, and two processes may do it at once."""

from __future__ import annotations

import random
from array import array
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from harness import Account
from hypothesis import given
from hypothesis import strategies as st
from run_records import batch
from t9k.aistore.db import Database
from t9k.aistore.db.tables.runs import metric_blocks, metric_columns
from t9k.aistore.runs import batches, columns, compaction, points, records
from t9k.aistore.services import Services
from t9k.aistore.tree.placement import Placement
from t9k.protocol.metric_batch import encode_batch


@pytest.fixture
def run_id(database: Database, ada: Account) -> str:
    """A run."""
    place = Placement("/ada/default", "run")
    return database.write(
        lambda connection: records.create(connection, ada.caller, "run", place, records.Parts()).node_id
    )


def put(database: Database, account: Account, run_id: str, sequence: int, content: Any = None) -> bool:
    data = encode_batch(content or batch(sequence, 1, loss=[float(sequence)]))
    return batches.put(database, account.caller, run_id, "train", "s", sequence, data).result()


def blocks(database: Database, run_id: str) -> list[Any]:
    query = sa.select(metric_blocks).where(metric_blocks.c.node_id == run_id).order_by("first_sequence")
    return database.read(lambda connection: list(connection.execute(query)))


def read(database: Database, account: Account, run_id: str) -> list[int]:
    page = database.read(lambda connection: points.page(connection, account.caller, run_id, "train", [], limit=100_000))
    return page.points.steps.tolist()


def row(first: int, last: int, level: int, count: int, names: int = 1) -> Any:
    return SimpleNamespace(first_sequence=first, last_sequence=last, level=level, points=count, names=names)


@given(st.lists(st.integers(0, 2000), unique=True, min_size=1, max_size=600), st.integers(1, 9000))
def test_plans_end_with_few_blocks_and_few_rewrites(sequences: list[int], count: int) -> None:
    """Batches of one size in any order, merged after each 40: each is rewritten once for each level at most."""
    rows: list[Any] = []
    rewritten: dict[int, int] = dict.fromkeys(sequences, 0)
    for start in range(0, len(sequences), 40):
        rows += [row(sequence, sequence, 0, count) for sequence in sequences[start : start + 40]]
        rows.sort(key=lambda one: one.first_sequence)
        while groups := compaction.plan([one for one in rows if one.level < 9]):
            for level, group in groups:
                assert all(one.last_sequence + 1 == other.first_sequence for one, other in pairwise(group))
                for sequence in range(group[0].first_sequence, group[-1].last_sequence + 1):
                    rewritten[sequence] += 1
                merged = row(group[0].first_sequence, group[-1].last_sequence, level, sum(one.points for one in group))
                assert level == 9 or merged.points < compaction.FULL_POINTS
                rows = sorted([*(one for one in rows if one not in group), merged], key=lambda one: one.first_sequence)
    assert max(rewritten.values()) <= 5
    gaps = 1 + sum(sequence + 1 not in rewritten for sequence in sequences)
    small = [one for one in rows if one.level < 9]
    assert len(small) < compaction.FAN_IN * 4 * gaps


def test_wide_batches_fill_a_block_by_their_numbers() -> None:
    wide = [row(number, number, 0, 100, names=10_000) for number in range(6)]
    assert [(level, len(group)) for level, group in compaction.plan(wide)] == [(9, 3), (9, 3)]


def test_many_small_batches_are_few_blocks_and_read_the_same(database: Database, ada: Account, run_id: str) -> None:
    order = list(range(300))
    random.Random(3).shuffle(order)
    for sequence in order:
        assert put(database, ada, run_id, sequence)
    before = read(database, ada, run_id)
    assert compaction.compact(database) > 0
    assert len(blocks(database, run_id)) < 2 * compaction.FAN_IN
    assert read(database, ada, run_id) == before == list(range(300))
    assert compaction.compact(database) == 0
    assert not any(put(database, ada, run_id, sequence) for sequence in (0, 17, 150, 299))


def test_two_processes_may_merge_and_write_at_once(services: Services, ada: Account, run_id: str) -> None:
    """Two `Database` objects share nothing but what is stored, as two processes do."""
    other = Database(services.settings.url_of_database)
    both = (services.database, other)
    try:
        with ThreadPoolExecutor(6) as pool:
            sent = [(database, sequence) for sequence in range(120) for database in both]
            were_new = pool.map(lambda pair: put(pair[0], ada, run_id, pair[1]), sent)
            merging = [pool.submit(compaction.compact, database) for database in both * 2]
            assert sum(were_new) == 120
            for job in merging:
                job.result()
    finally:
        other.close()
    compaction.compact(services.database)
    assert read(services.database, ada, run_id) == list(range(120))


def test_deleted_run_takes_its_metrics_along(database: Database, ada: Account, run_id: str) -> None:
    from t9k.aistore.db.tables.tree import nodes

    for sequence in range(40):
        put(database, ada, run_id, sequence)
    compaction.compact(database)
    database.write(lambda connection: connection.execute(sa.delete(nodes).where(nodes.c.id == run_id)))
    for table in (metric_blocks, metric_columns):
        query = sa.select(sa.func.count()).select_from(table)
        assert database.read(lambda connection, query=query: connection.execute(query).scalar_one()) == 0
    assert compaction.compact(database) == 0


@given(st.lists(st.integers(0, 2**64 - 1), max_size=200))
def test_columns_keep_every_bit(patterns: list[int]) -> None:
    raw = array("Q", patterns).tobytes()
    numbers, integers = array("d", raw), array("q", raw)
    assert columns.unpack_numbers(columns.pack_numbers(numbers)).tobytes() == raw
    assert columns.unpack_integers(columns.pack_integers(integers)) == integers


def test_backlog_is_merged_in_statements_of_bounded_length() -> None:
    backlog = [row(number, number, 0, 1) for number in range(2 * compaction.MOST_BLOCKS + compaction.FAN_IN)]
    sizes = [(level, len(group)) for level, group in compaction.plan(backlog)]
    assert sizes == [(1, compaction.MOST_BLOCKS), (1, compaction.MOST_BLOCKS), (1, compaction.FAN_IN)]

"""Merging small blocks, so that a run that logs often is read from few.

Neighbours are merged when `FAN_IN` of them have come together, and again when as many of those have, until a block is
full. A point is therefore written anew a few times at most, and a type has few small blocks. Merging changes nothing
that can be read: only blocks without a gap between them are merged, and a batch that is missing still finds its place.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

from t9k.aistore.db import Database, metrics
from t9k.aistore.db.metrics import EPOCHS, FULL, SEQUENCES, STEPS, TIMES, Block
from t9k.aistore.runs import blocks
from t9k.aistore.runs.blocks import Columns
from t9k.aistore.runs.columns import pack_integers, pack_numbers

FAN_IN = 16
MOST_BLOCKS = 1000
"""Blocks that are merged at once where many have come together; their ids are parameters of one statement."""

FULL_POINTS = 1 << 16
FULL_CELLS = 1 << 21
"""A block of so many points, or numbers, is full: 16 MiB of them, however many metrics a type has."""


def compact(database: Database, is_stopping: Callable[[], bool] = lambda: False) -> int:
    """Merges what can be merged now; answers how many blocks it made. Safe beside other processes."""
    made = 0
    for place in database.read(lambda connection: metrics.crowded(connection, FAN_IN, FULL_POINTS)):
        while groups := _plan_of(database, place):
            for level, rows in groups:
                if is_stopping():
                    return made
                made += _merge(database, level, rows)
    return made


def plan(rows: Sequence[Any]) -> list[tuple[int, list[Any]]]:
    """Which of a session's blocks to merge next, to which level; empty when there is nothing to gain.

    Args:
        rows: Blocks that are not full, by sequence number.
    """
    for level in range(FULL):
        groups = [
            group
            for stretch in _stretches([row for row in rows if row.level <= level])
            for group in _split(level, stretch)
        ]
        if groups:
            return groups
    return []


def _stretches(rows: Sequence[Any]) -> list[list[Any]]:
    """Parts of the rows without a gap."""
    stretches: list[list[Any]] = []
    for row in rows:
        if stretches and stretches[-1][-1].last_sequence + 1 == row.first_sequence:
            stretches[-1].append(row)
        else:
            stretches.append([row])
    return stretches


def _split(level: int, stretch: list[Any]) -> list[tuple[int, list[Any]]]:
    """Full groups from the left, and what remains if that is enough to merge."""
    groups: list[tuple[int, list[Any]]] = []
    group: list[Any] = []
    points = cells = 0
    for row in stretch:
        group.append(row)
        points += row.points
        cells += row.points * (row.names + 3)
        if points >= FULL_POINTS or cells >= FULL_CELLS:
            groups.append((FULL, group))
            group, points, cells = [], 0, 0
        elif len(group) == MOST_BLOCKS:
            groups.append((min(level + 1, FULL), group))
            group, points, cells = [], 0, 0
    if len(group) >= FAN_IN:
        groups.append((min(level + 1, FULL), group))
    return groups


def _plan_of(database: Database, place: Any) -> list[tuple[int, list[Any]]]:
    rows = database.read(
        lambda connection: metrics.blocks_of(connection, place.node_id, place.type, session=place.session)
    )
    return plan([row for row in rows if row.level < FULL])


def _merge(database: Database, level: int, rows: list[Any]) -> bool:
    """Puts one block in the place of several; False if somebody else has merged them, or the run is gone."""
    first, last = rows[0], rows[-1]

    def read(connection: metrics.Connection) -> list[Columns] | None:
        series = metrics.series_of(connection, first.node_id, first.type)
        numbers = {name: row.number for name, row in series.items()}
        there = {row.id for row in metrics.blocks_of(connection, first.node_id, first.type, session=first.session)}
        if not there.issuperset(row.id for row in rows):
            return None
        return list(blocks.read(connection, rows, numbers))

    parts = database.read(read)
    if parts is None:
        return False
    columns = _joined(parts)
    block = Block(
        node_id=first.node_id,
        type=first.type,
        session=first.session,
        first_sequence=first.first_sequence,
        last_sequence=last.last_sequence,
        level=level,
        points=sum(row.points for row in rows),
        names=len(columns) - 4,
        first_step=min(row.first_step for row in rows),
        last_step=max(row.last_step for row in rows),
    )

    def write(connection: metrics.Connection) -> bool:
        block_ids = [row.id for row in rows]
        if metrics.count_blocks(connection, block_ids) != len(rows):
            return False
        metrics.delete_blocks(connection, block_ids)
        metrics.add_columns(connection, metrics.add_block(connection, block), columns)
        return True

    return database.write_to_run(first.node_id, write)


def _joined(parts: list[Columns]) -> dict[int, bytes]:
    """The columns of all parts, one behind the other; compressed one at a time, so that memory is bounded."""
    columns = {
        number: pack_integers(_concatenated([getattr(part, name) for part in parts]))
        for number, name in ((STEPS, "steps"), (EPOCHS, "epochs"), (TIMES, "times_us"), (SEQUENCES, "sequences"))
    }
    for number in sorted({number for part in parts for number in part.values}):
        joined = array("d")
        for part in parts:
            joined += part.column(number)
        columns[number] = pack_numbers(joined)
    return columns


def _concatenated(columns: list[array[int]]) -> array[int]:
    joined = array("q")
    for column in columns:
        joined += column
    return joined

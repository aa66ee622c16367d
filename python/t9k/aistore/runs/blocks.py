"""Reading blocks: one batch as it came, or the columns of several."""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t9k.aistore.db import metrics
from t9k.aistore.db.metrics import EPOCHS, SEQUENCES, STEPS, TIMES
from t9k.aistore.runs.columns import not_logged, unpack_integers, unpack_numbers
from t9k.protocol.metric_batch import decode_batch

CELLS_AT_ONCE = 1 << 21
BLOCKS_AT_ONCE = 100
"""Numbers (16 MiB) and blocks that are read at once, so that memory is bounded however many metrics are wanted."""


@dataclass(frozen=True)
class Columns:
    """The points of a block, as far as they were asked for.

    Attributes:
        row: The block's row, without its batch.
        values: By the number of the metric; a metric that no point has may be missing.
    """

    row: Any
    steps: array[int]
    epochs: array[int]
    times_us: array[int]
    sequences: array[int]
    values: dict[int, array[float]]

    def __len__(self) -> int:
        return int(self.row.points)

    def column(self, number: int) -> array[float]:
        """A metric's values at all points."""
        found = self.values.get(number)
        return not_logged(len(self)) if found is None else found

    def position(self, index: int) -> tuple[int, int, int]:
        """Where a point is, whatever is merged: session, sequence number, place in the batch."""
        sequence = self.sequences[index]
        return self.row.session, sequence, index - bisect.bisect_left(self.sequences, sequence)

    def index_of(self, sequence: int, place: int) -> int:
        """The first point of the block at or behind this place of its session."""
        start = bisect.bisect_left(self.sequences, sequence)
        return min(start + place, bisect.bisect_right(self.sequences, sequence))


def read(
    connection: metrics.Connection,
    rows: Sequence[Any],
    numbers: Mapping[str, int],
    *,
    needs_all: bool = True,
) -> Iterator[Columns]:
    """The points of these blocks, in their order.

    Args:
        connection: Of one transaction, so that nothing is merged away meanwhile.
        rows: Of the blocks.
        numbers: Numbers of the wanted metrics by name.
        needs_all: Whether epochs, times and sequence numbers are wanted too; else they are empty.
    """
    wanted = [STEPS, *((EPOCHS, TIMES, SEQUENCES) if needs_all else ()), *numbers.values()]
    for group in _groups(rows, len(numbers)):
        block_ids = [row.id for row in group]
        batches = metrics.batches_of(connection, block_ids)
        merged = [block_id for block_id in block_ids if block_id not in batches]
        columns = metrics.columns_of(connection, merged, wanted) if merged else {}
        for row in group:
            if row.id in batches:
                yield _of_batch(row, batches.pop(row.id), numbers)
            else:
                yield _of_columns(row, columns.pop(row.id))


def _groups(rows: Sequence[Any], wanted: int) -> Iterator[list[Any]]:
    group: list[Any] = []
    cells = 0
    for row in rows:
        group.append(row)
        cells += row.points * (4 + (row.names if row.level == 0 else min(row.names, wanted)))
        if len(group) == BLOCKS_AT_ONCE or cells >= CELLS_AT_ONCE:
            yield group
            group, cells = [], 0
    if group:
        yield group


def _of_batch(row: Any, data: bytes, numbers: Mapping[str, int]) -> Columns:
    batch = decode_batch(data)
    values = {numbers[name]: column for name, column in batch.values.items() if name in numbers}
    sequences = array("q", [row.first_sequence]) * len(batch)
    return Columns(row, batch.steps, batch.epochs, batch.times_us, sequences, values)


def _of_columns(row: Any, columns: dict[int, bytes]) -> Columns:
    steps, epochs, times_us, sequences = (
        unpack_integers(data) if (data := columns.pop(number, None)) is not None else array("q")
        for number in (STEPS, EPOCHS, TIMES, SEQUENCES)
    )
    values = {number: unpack_numbers(data) for number, data in columns.items()}
    return Columns(row, steps, epochs, times_us, sequences, values)

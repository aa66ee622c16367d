"""Lines of a growing metrics file as one batch of the protocol."""

from __future__ import annotations

from itertools import islice

from t9k.em.metrics import decode_lines
from t9k.em.points import Points
from t9k.em.transfer.batches import batches

READ_BYTES = 1 << 20
"""Of a metrics file that become one batch at most."""


def next_batch(data: bytes) -> tuple[int, bytes | None]:
    """The batch of the first lines of `data`: the bytes that these lines take, and None if they hold no point.

    Args:
        data: Whole lines. Damaged ones are passed over, as where the file is read.
    """
    end = len(data)
    while True:
        points = Points()
        decode_lines(data[:end], points)
        found = list(islice(batches(points), 2))
        if len(found) < 2:
            return end, found[0] if found else None
        end = data.rfind(b"\n", 0, end // 2) + 1 or data.index(b"\n") + 1

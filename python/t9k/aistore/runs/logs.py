"""The standard output of a run: bytes that only grow.

Kept in compressed parts of at most `PART_BYTES`. Writing appends to the last part, so that a log of many small writes
has few parts.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import Database, run_logs
from t9k.aistore.errors import Refusal, conflict, invalid
from t9k.aistore.runs.records import check_run
from t9k.aistore.tree.access import Access
from t9k.protocol.runs import MAX_LOG_BYTES, MAX_LOG_PART_BYTES

PART_BYTES = 64 << 10
_PARTS_AT_ONCE = 16


def append(database: Database, caller: Caller, run_id: str, offset: int, data: bytes) -> int:
    """Writes bytes at an offset, durable when this returns; answers the log's length then.

    Bytes that the log has already are passed over, not compared: writing again changes nothing.

    Raises:
        Refusal: As `runs.records.check_run`; the offset lies behind the log's end (`conflict`); the log would pass its
            cap, or the bytes are too many at once (`invalid_input`).
    """
    if offset < 0:
        raise invalid(f"an offset is not negative, as {offset} is")
    if len(data) > MAX_LOG_PART_BYTES:
        raise too_long(f"a request brings at most {MAX_LOG_PART_BYTES} bytes of a log")
    if offset + len(data) > MAX_LOG_BYTES:
        raise too_long(f"a log has at most {MAX_LOG_BYTES} bytes")

    def work(connection: run_logs.Connection) -> int:
        log_bytes: int = check_run(connection, caller, run_id, Access.EDIT).log_bytes
        if offset > log_bytes:
            raise conflict(f"the log ends at byte {log_bytes}, before {offset}", hint="send what lies between first")
        new = data[log_bytes - offset :]
        if new:
            _append(connection, run_id, log_bytes, new)
        return log_bytes + len(new)

    return database.write_to_run(run_id, work)


def too_long(message: str) -> Refusal:
    """The refusal of more bytes than a log takes."""
    return Refusal("invalid_input", message, hint="leave out the rest", status=413)


def length(database: Database, caller: Caller, run_id: str) -> int:
    """Bytes of a log.

    Raises:
        Refusal: As `runs.records.check_run`.
    """
    return int(database.read(lambda connection: check_run(connection, caller, run_id)).log_bytes)


def read(database: Database, run_id: str, start: int, stop: int) -> Iterator[bytes]:
    """Bytes `start` to `stop` of a log that the caller may see, piece by piece; memory is bounded."""
    while start < stop:
        at = start
        parts = database.read(
            lambda connection, at=at: run_logs.parts_from(connection, run_id, at, stop, _PARTS_AT_ONCE)  # type: ignore[misc]
        )
        if not parts:
            return  # the run was deleted for good meanwhile
        for part in parts:
            data = zlib.decompress(part.data)
            yield data[start - part.offset : stop - part.offset]
            start = part.offset + part.length


def _append(connection: run_logs.Connection, run_id: str, log_bytes: int, new: bytes) -> None:
    last = run_logs.last_part(connection, run_id)
    start = log_bytes
    if last is not None and last.length < PART_BYTES:
        start, new = last.offset, zlib.decompress(last.data) + new
    parts = [
        (start + index, len(piece), zlib.compress(piece, 1))
        for index in range(0, len(new), PART_BYTES)
        if (piece := new[index : index + PART_BYTES])
    ]
    run_logs.put_parts(connection, run_id, parts, start + len(new))

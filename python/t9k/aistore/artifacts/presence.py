"""`plan` and `missing`: what an upload need not send. Both answer for the caller's domain only."""

from __future__ import annotations

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.artifacts import leases
from t9k.aistore.artifacts.claims import Claims
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, bulk, objects, packs
from t9k.aistore.db import leases as lease_rows
from t9k.aistore.db.nodes import Connection
from t9k.aistore.errors import invalid
from t9k.protocol import DIGEST_BYTES, MAX_MISSING_CHUNKS, MAX_PLAN_OBJECTS

_PLAN_ROW_BYTES = DIGEST_BYTES + 8


def plan(database: Database, caller: Caller, body: bytes | memoryview) -> bytes:
    """Tells which objects are unknown, as a bitmap.

    Known is only what the server has hashed whole. It stays known for as long as a lease, whatever is deleted.

    Args:
        database: To look into.
        caller: Whose domain is asked.
        body: Digest and size (u64) of each object.

    Raises:
        Refusal: The body is no such list, or too long.
    """
    count, rest = divmod(len(body), _PLAN_ROW_BYTES)
    if rest or count > MAX_PLAN_OBJECTS:
        raise invalid(f"plan takes digest and size (40 bytes) of at most {MAX_PLAN_OBJECTS} objects")
    rows = bulk.split(body, _PLAN_ROW_BYTES)
    digests = [row[:DIGEST_BYTES] for row in rows]
    sizes = [int.from_bytes(row[DIGEST_BYTES:], "little") for row in rows]

    def look(connection: Connection) -> tuple[dict[int, int], list[int]]:
        domain = lease_rows.domain_id(connection, caller.domain)
        if domain is None:
            return {}, []
        known: dict[int, int] = {}
        unreached: set[int] = set()
        for position, number, size_bytes, is_reached in objects.complete(connection, domain, digests):
            if size_bytes == sizes[position]:
                known[position] = number
                if not is_reached:
                    unreached.add(number)
        return known, list(unreached)

    known, unreached = database.read(look)
    if unreached:
        # No manifest keeps these. Those that the collector has not taken yet stay for as long as a lease.
        alive = database.write(objects.vouch, unreached, now_us())
        gone = set(unreached) - alive
        known = {position: number for position, number in known.items() if number not in gone}
    return _bitmap(count, known)


def missing(
    database: Database,
    caller: Caller,
    lease: str | None,
    body: bytes | memoryview,
    lease_s: int,
    claims: Claims | None = None,
) -> bytes:
    """Tells which chunks are missing: a lease, then a bitmap. What is there stays while the lease lives.

    Args:
        database: To look into.
        caller: Whose domain is asked.
        lease: Of an earlier answer, to be renewed; None takes a new one.
        body: Digests of the chunks.
        lease_s: How long a lease lives after its last use.
        claims: Where the caller claims what is missing and nobody is sending yet; the answer then ends with a second
            bitmap, of what another upload is sending.

    Raises:
        Refusal: The body is no list of digests, or too long; there is no such lease (any more).
    """
    count, rest = divmod(len(body), DIGEST_BYTES)
    if rest or count > MAX_MISSING_CHUNKS:
        raise invalid(f"missing takes at most {MAX_MISSING_CHUNKS} digests of {DIGEST_BYTES} bytes")
    digests = bulk.split(body)

    there = database.read(lambda connection: dict(packs.present(connection, caller.domain, digests)))
    in_packs = set(there.values())

    def take(connection: Connection) -> tuple[str, set[int]]:
        held, _ = leases.hold(connection, caller, lease, lease_s)
        return held, lease_rows.protect(connection, held, in_packs)

    held, alive = database.write(take)
    present = {at for at, pack_id in there.items() if pack_id in alive}
    answer = held.encode() + _bitmap(count, present)
    if claims is None:
        return answer
    absent = [at for at in range(count) if at not in present]
    busy = {absent[index] for index in claims.claim(caller.domain, held, [digests[at] for at in absent])}
    return answer + _bitmap(count, set(range(count)) - busy)


def _bitmap(count: int, there: dict[int, int] | set[int]) -> bytes:
    """Bit i is 1 unless i is there; bits behind the last are 0."""
    bits = bytearray(b"\xff" * ((count + 7) // 8))
    if count % 8:
        bits[-1] = (1 << count % 8) - 1
    for position in there:
        bits[position >> 3] &= ~(1 << (position & 7))
    return bytes(bits)

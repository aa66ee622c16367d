"""Times and ids of the server's records."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32


def now_us() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def iso(time_us: int | None) -> str | None:
    """A time as ISO 8601 in UTC."""
    if time_us is None:
        return None
    return datetime.fromtimestamp(time_us / 1e6, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_id() -> str:
    """An id of 20 characters: 48 bits of time, so that new rows lie together, and 52 of chance.

    A server restored from a backup does not give out an id again that it has given out since.
    """
    value = (time.time_ns() // 1_000_000) << 52 | secrets.randbits(52)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(95, -1, -5))

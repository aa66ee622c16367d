"""Limits on failed log-ins that cannot lock an honest user out.

A right key or password is always accepted from where nothing failed. What fails costs only the address that it came
from, and the key or account that it tried: further failures are answered "too many" until the bucket has filled again.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from t9k.aistore.errors import Refusal

BURST = 20
"""Failures of one key at once."""

REFILL_S = 6.0
"""A failure is forgiven each so many seconds."""

MAX_KEYS = 20_000
"""Buckets in memory, about 5 MB; the longest unused is forgotten, which forgives it."""


class FailureLimits:
    """Token buckets of what fails, of one process. Thread-safe.

    Processes that share an address divide the limits: all of them together forgive no more than one would.
    """

    def __init__(
        self,
        *,
        burst: float = BURST,
        max_keys: int = MAX_KEYS,
        clock: Callable[[], float] = time.monotonic,
        processes: int = 1,
    ) -> None:
        """Knows of no failures."""
        self._buckets: OrderedDict[tuple[str, ...], tuple[float, float]] = OrderedDict()
        self._burst = max(1.0, burst / processes)
        self._refill_s = REFILL_S * processes
        self._max_keys = max_keys
        self._clock = clock
        self._lock = threading.Lock()

    def note(self, *keys: tuple[str, ...]) -> None:
        """Notes one failure of each key."""
        with self._lock:
            for key in keys:
                self._buckets[key] = (self._failures(key) + 1, self._clock())
                self._buckets.move_to_end(key)
            while len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)

    def failures(self, key: tuple[str, ...]) -> float:
        """Failures of a key that are not forgiven yet."""
        with self._lock:
            return self._failures(key)

    def is_over(self, *keys: tuple[str, ...]) -> bool:
        """Whether one of the keys has failed too often."""
        return any(self.failures(key) >= self._burst for key in keys)

    def _failures(self, key: tuple[str, ...]) -> float:
        count, at = self._buckets.get(key, (0.0, 0.0))
        return max(0.0, count - (self._clock() - at) / self._refill_s)


def address_key(address: str) -> tuple[str, str]:
    """The key of where a request comes from: an IPv4 address, or an IPv6 network of 64 bits, which one host has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ("address", address[:64])
    if parsed.version == 6:
        if parsed.ipv4_mapped is not None:
            return ("address", str(parsed.ipv4_mapped))
        return ("address", str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64))))
    return ("address", str(parsed))


def too_many() -> Refusal:
    """The refusal of more failures."""
    return Refusal("transfer", "too many failed attempts", hint="wait a minute, and use a key that is good", status=429)

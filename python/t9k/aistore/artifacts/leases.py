"""Leases: what keeps the garbage collector from what an upload was told or has sent."""

from __future__ import annotations

import re

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import now_us
from t9k.aistore.db import leases
from t9k.aistore.db.nodes import Connection
from t9k.aistore.errors import conflict, invalid

_LEASE = re.compile(r"[0-9a-z]{20}")


def hold(connection: Connection, caller: Caller, domain: int, lease: str | None, lease_s: int) -> str:
    """Renews the caller's lease; takes a new one if none is given.

    Raises:
        Refusal: There is no such lease (any more): `conflict`.
    """
    expires_us = now_us() + lease_s * 1_000_000
    if lease is None:
        return leases.take(connection, domain, caller.user_id, expires_us)
    if not _LEASE.fullmatch(lease):
        raise invalid("EM-Lease is not a lease", hint="send what `missing` answered")
    if not leases.renew(connection, lease, domain, caller.user_id, expires_us):
        raise conflict("the lease has ended", hint="ask for what is missing again, without it")
    return lease

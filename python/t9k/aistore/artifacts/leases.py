"""Leases: what keeps the garbage collector from what an upload was told or has sent."""

from __future__ import annotations

import re

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import now_us
from t9k.aistore.db import leases
from t9k.aistore.db.nodes import Connection
from t9k.aistore.errors import conflict, invalid

_LEASE = re.compile(r"[0-9a-z]{20}")


SLACK = 10
"""A lease is made longer by this part: uses within that time write nothing, and on PostgreSQL meet no other's write."""


def hold(connection: Connection, caller: Caller, lease: str | None, lease_s: int) -> tuple[str, int]:
    """Renews the caller's lease, or takes a new one if none is given; answers it, and the number of their domain.

    It lives at least `lease_s` from now on.

    Raises:
        Refusal: There is no such lease (any more): `conflict`.
    """
    least_us = now_us() + lease_s * 1_000_000
    until_us = least_us + lease_s * 1_000_000 // SLACK
    if lease is None:
        domain = leases.make_domain(connection, caller.domain)
        return leases.take(connection, domain, caller.user_id, until_us), domain
    if not _LEASE.fullmatch(lease):
        raise invalid("EM-Lease is not a lease", hint="send what `missing` answered")
    found = leases.find(connection, lease, caller.domain, caller.user_id)
    if found is None:
        raise conflict("the lease has ended", hint="ask for what is missing again, without it")
    if found.expires_us < least_us:
        leases.renew(connection, lease, until_us)
    return lease, found.domain_id

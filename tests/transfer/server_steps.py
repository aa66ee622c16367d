"""Steps of a walk on the server's side: time passes, garbage is collected, the server is restarted or killed."""

from __future__ import annotations

import os

import sqlalchemy as sa
from t9k.aistore.artifacts.check import check
from t9k.aistore.artifacts.gc import collect, sweep
from t9k.aistore.db.nodes import Connection
from t9k.aistore.db.tables import artifacts as tables
from t9k.aistore.db.tables import tree
from t9k.aistore.tree import trash
from walk import Walk

LEASE_S, GRACE_S, TRASH_DAYS = 3600, 86_400, 30
PASSES_S = (7_333, 177_777, 3_456_789)
"""So much time passes at once: leases end; garbage may be deleted, too; what is in the trash expires, too."""

UNSURE_S = 3600
"""No age comes so near to a limit, or the world would not know on which side of it the server sees it."""

AGED = (
    tables.leases.c.expires_us,
    tables.packs.c.condemned_us,
    tables.manifests.c.condemned_us,
    tables.objects.c.asked_us,
    tables.objects.c.claimed_us,
    tables.versions.c.created_us,
    tables.commits.c.at_us,
    tree.nodes.c.trashed_us,
)
"""What the server measures from. When they lie further back, time has passed for it."""


def pass_time(walk: Walk) -> None:
    """Time passes, and the trash is emptied of what is too old."""
    seconds = walk.chance.choice(PASSES_S)
    ages = [(walk.now_s() - since_s, TRASH_DAYS * 86_400) for since_s in walk.world.trashed_s.values()]
    for _, versions in walk.world.artifacts():
        ages += [(walk.now_s() - one.made_s, versions.ttl_s) for one in versions.all if versions.ttl_s is not None]
    while any(abs(age_s + seconds - limit_s) < UNSURE_S for age_s, limit_s in ages):
        seconds += UNSURE_S
    walk.say(f"  {seconds} s")
    walk.services.database.write(_shift, seconds * 1_000_000)
    walk.passed_s += seconds
    for directory, _, names in os.walk(walk.data / "blobs"):
        for name in names:
            path = os.path.join(directory, name)
            old_ns = os.stat(path).st_mtime_ns - seconds * 10**9
            os.utime(path, ns=(old_ns, old_ns))
    empty_trash(walk)


def _shift(connection: Connection, us: int) -> None:
    for column in AGED:
        connection.execute(sa.update(column.table).where(column > us).values({column.name: column - us}))


def empty_trash(walk: Walk) -> None:
    """What is too old or was deleted for good goes."""
    world = walk.world
    for node in world.in_trash():
        if walk.now_s() - world.trashed_s.get(node.id, walk.now_s()) > TRASH_DAYS * 86_400:
            world.remove(node)
    trash.expire(walk.services.database, TRASH_DAYS)


def collect_garbage(walk: Walk) -> None:
    """As the server does by itself and `aistore gc` beside it."""
    for _, versions in walk.world.artifacts():
        for expired in versions.expired(walk.now_s()):
            versions.all.remove(expired)
    done = collect(walk.services.database, walk.services.blobs, lease_s=LEASE_S, grace_s=GRACE_S)
    walk.done["packs rewritten"] += done.rewritten_packs
    if walk.chance.random() < 0.2:
        sweep(walk.services.database, walk.services.blobs)


def restart(walk: Walk, *, kill: bool | None = None) -> None:
    """Killed or asked to end; it comes back at the same address."""
    walk.stop(kill=walk.chance.random() < 0.7 if kill is None else kill)
    walk.start()


def look_behind(walk: Walk) -> None:
    """Database and blobs are whole, and the server keeps exactly the manifests that somebody has."""
    # A blob of an upload that died may lie there until the next sweep; nothing is lost by it.
    problems = [one for one in check(walk.services.database, walk.services.blobs, read=True) if one.kind != "orphan"]
    assert not problems, problems
    collect_garbage(walk)

    def kept(connection: Connection) -> set[tuple[str, str]]:
        query = sa.select(tables.domains.c.name, tables.manifests.c.digest).join(
            tables.manifests, tables.manifests.c.domain_id == tables.domains.c.id
        )
        return {(domain, bytes(digest).hex()) for domain, digest in connection.execute(query)}

    assert walk.services.database.read(kept) == walk.world.manifests()


def end(walk: Walk) -> None:
    """Everything is deleted for good, and what the server stored for it goes."""
    world = walk.world
    for node in [one for one in world.nodes.values() if one.parent and world.nodes[one.parent].parent is None]:
        if not node.in_trash:
            walk.call(walk.session_of(node.owner), "DELETE", f"/nodes/{node.id}")
            world.throw_away(node, walk.now_s())
    for node in world.in_trash():
        if node.id in world.trashed_s:
            walk.call(walk.session_of(node.owner), "DELETE", f"/trash/{node.id}")
            world.remove(node)
            empty_trash(walk)
    for _ in range(3):
        pass_time(walk)
        walk.services.database.write(_shift, (GRACE_S + LEASE_S) * 1_000_000)
        collect_garbage(walk)
    sweep(walk.services.database, walk.services.blobs)
    problems = list(check(walk.services.database, walk.services.blobs, read=True))
    assert not problems, problems
    left = [blob.key for blob in walk.services.blobs.list()]
    assert not left, left
    for table in (
        tables.packs,
        tables.chunks,
        tables.moved_records,
        tables.objects,
        tables.manifests,
        tables.versions,
        tables.doomed_blobs,
    ):
        query = sa.select(sa.func.count()).select_from(table)
        assert walk.services.database.read(lambda connection, query=query: connection.execute(query).scalar()) == 0
    assert walk.server_log.read_text() == ""

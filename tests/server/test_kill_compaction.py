"""Real processes that are killed while packs are rewritten: every artifact is whole, and the disk has nothing to keep.

`AISTORE_KILLS` sets how often for each database: at as many points of a collection each, three times as many.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest
import sqlalchemy as sa
from harness import Account, Serving, run_server
from starlette.testclient import TestClient
from t9k.aistore.artifacts.check import check
from t9k.aistore.artifacts.compaction import Limits
from t9k.aistore.artifacts.gc import Collected, collect, sweep
from t9k.aistore.artifacts.verification import check_objects
from t9k.aistore.db.tables import artifacts as tables
from t9k.aistore.db.tables.turns import job_turns
from t9k.aistore.services import Services, open_services
from t9k.aistore.settings import Settings
from t9k.aistore.tree import trash
from test_kill_uploads import KILLS, client_of
from uploads import Content, Uploader, digest, noise, pack_of

LATER = -10

KILLED = textwrap.dedent("""
    import os, signal, sys, traceback
    from pathlib import Path
    import sqlalchemy as sa
    from t9k.aistore import jobs
    from t9k.aistore.artifacts.gc import collect
    from t9k.aistore.blobs import local
    from t9k.aistore.db import schema
    from t9k.aistore.services import open_services
    from t9k.aistore.settings import Settings

    data, url, passed, left = Path(sys.argv[1]), sys.argv[2] or None, 0, 0

    def step(*_):
        global passed
        passed += 1
        if passed == left:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(call):
        def calling(*arguments, **named):
            step()
            answer = call(*arguments, **named)
            step()
            return answer
        return calling

    def run(grace_s):
        services = open_services(Settings(data_dir=data, database_url=url))
        for name in ("open", "write", "fsync", "link", "unlink"):
            setattr(os, name, watched(getattr(os, name)))
        for event in ("before_cursor_execute", "commit"):
            sa.event.listen(services.database.engine, event, step)
        done = collect(services.database, services.blobs, lease_s=-10, grace_s=grace_s)
        print(passed, done.rewritten_packs, end=" ", flush=True)

    for line in sys.stdin:
        left, grace_s = map(int, line.split())
        child = os.fork()
        if child == 0:
            try:
                run(grace_s)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
""")
"""Collections, one for each line, of which each is killed at a point: before a statement or a commit, before or after a
call of the system. Each is a child of one process, since most of the time of a new one goes into imports."""


def expected_of(content: Content) -> dict[bytes, bytes]:
    return {name: b"".join(chunks) for name, chunks in content.objects.items()}


def sparse(uploader: Uploader, services: Services, name: object) -> tuple[str, Content]:
    """An artifact that is all that is left of the pack in which it was sent."""
    kept = [noise((name, at), 30_000) for at in range(2)]
    gone = uploader.upload(Content({"kept": kept, "gone": [noise((name, "gone"), 90_000)]}))["node"]["id"]
    content = Content({"kept": kept, "first": kept[:1]})
    node_id = uploader.commit(content).json()["node"]["id"]
    check_objects(services.database, services.blobs)
    uploader.lease = None

    def forget(connection: sa.Connection) -> None:
        connection.execute(sa.delete(tables.commits))
        connection.execute(sa.update(tables.leases).values(expires_us=1))

    services.database.write(forget)
    assert uploader.call("DELETE", f"/nodes/{gone}").status_code == 204
    assert uploader.call("DELETE", f"/trash/{gone}").status_code == 204
    trash.expire(services.database, 30)
    return node_id, content


def finish(services: Services) -> None:
    """Collects until nothing is left to do."""
    for _ in range(4):
        collect(services.database, services.blobs, lease_s=LATER, grace_s=LATER)
    sweep(services.database, services.blobs, older_than_us=-1_000_000)


def assert_tidy(services: Services, contents: dict[str, Content]) -> None:
    """Only what is used takes room on the disk: less than twice of it, as the threshold promises."""
    assert collect(services.database, services.blobs, lease_s=LATER, grace_s=LATER) == Collected()

    def look(connection: sa.Connection) -> tuple[set[str], int]:
        is_used = sa.exists().where(tables.object_chunks.c.chunk_id == tables.chunks.c.id)
        used = sa.select(sa.func.sum(tables.chunks.c.length)).where(is_used)
        return set(connection.execute(sa.select(tables.packs.c.blob_key)).scalars()), connection.execute(used).scalar()

    named, used_bytes = services.database.read(look)
    blobs = {blob.key: blob.size_bytes for blob in services.blobs.list("packs")}
    assert set(blobs) == named
    assert used_bytes >= sum(len(chunk) for content in contents.values() for chunk in content.chunks[:1])
    assert sum(blobs.values()) <= 2 * used_bytes + len(blobs) * 1000
    root = services.settings.data_dir / "blobs"
    assert not [path for path in root.rglob("*") if path.name.startswith(".tmp-")]


def test_collector_killed_at_any_point_loses_nothing_and_leaves_nothing(
    services: Services, api: TestClient, ada: Account, database_url: str | None
) -> None:
    uploader, contents, killed = Uploader(api, ada), dict[str, Content](), 0

    where = [str(services.settings.data_dir), database_url or ""]
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, *where], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as collector:
        assert collector.stdin is not None
        assert collector.stdout is not None

        def run(point: int, grace_s: int) -> list[int]:
            contents.update(sparse(uploader, services, (point, grace_s, turn)) for turn in range(2))
            print(point, grace_s, file=collector.stdin, flush=True)
            return [int(number) for number in collector.stdout.readline().split()]

        points, rewritten, code = run(0, LATER)
        assert (rewritten, code) == (2, 0)
        for number in range(3 * KILLS):
            point = 1 + points * number // (3 * KILLS)
            *_, code = run(point, LATER if number % 2 else 86_400)
            assert code in (-signal.SIGKILL, 0)  # there are fewer points within the grace
            killed += code == -signal.SIGKILL
            for node_id, content in contents.items():
                assert uploader.download(node_id) == expected_of(content), point
            assert [one for one in check(services.database, services.blobs, read=True) if one.kind != "orphan"] == []
            if number % 5 == 4:
                finish(services)
                assert_tidy(services, contents)
    finish(services)
    assert_tidy(services, contents)
    assert all(uploader.download(node_id) == expected_of(content) for node_id, content in contents.items())
    assert list(check(services.database, services.blobs, read=True)) == []
    assert killed >= KILLS


@dataclass
class Acknowledged:
    """What a server has said is done: contents by node, and nodes whose deletion was begun."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    artifacts: dict[str, Content] = field(default_factory=dict)
    going: set[str] = field(default_factory=set)


def work(serving: Serving, key: str, seed: int, done: Acknowledged) -> None:
    """Uploads, reads and deletes until the server is gone: most of each pack is soon unused."""
    uploader, chance = client_of(serving, key), random.Random(seed)
    try:
        for turn in range(10_000):
            chunks = [noise((seed, turn, at), chance.choice((100, 20_000, 150_000))) for at in range(6)]
            made = []
            for part in (chunks, chunks[: chance.randrange(1, 3)]):
                content = Content({"x": part, "one": part[:1]})
                uploader.send(content.chunks)
                name = f"{seed}-{turn}-{len(part)}"
                response = uploader.commit(content, key=name, placement={"name": name})
                assert response.status_code == 201, response.text
                made.append((response.json()["node"]["id"], content))
            with done.lock:
                done.artifacts.update(made)
            delete(uploader, made[0][0], done)
    except httpx2.TransportError:
        pass
    finally:
        uploader.client.close()


def delete(uploader: Uploader, node_id: str, done: Acknowledged) -> None:
    """For good; until it is acknowledged nobody knows."""
    with done.lock:
        done.going.add(node_id)
    uploader.call("DELETE", f"/nodes/{node_id}")
    uploader.call("DELETE", f"/trash/{node_id}")
    with done.lock:
        done.artifacts.pop(node_id, None)
        done.going.discard(node_id)


def look(serving: Serving, key: str, done: Acknowledged) -> None:
    """Everything that was acknowledged is there; what was being deleted is whole, or gone."""
    uploader = client_of(serving, key)
    for node_id in sorted(done.going & set(done.artifacts)):
        delete(uploader, node_id, done)
    for node_id, content in done.artifacts.items():
        assert uploader.download(node_id) == expected_of(content)
    uploader.client.close()


def pass_a_day(services: Services) -> None:
    """Nobody runs: leases are over, answers of commits forgotten, graces too; the next server collects at its start."""

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.delete(tables.commits))
        connection.execute(sa.update(tables.leases).values(expires_us=1))
        connection.execute(sa.update(tables.objects).values(asked_us=1))
        connection.execute(sa.update(tables.packs).where(tables.packs.c.condemned_us > 1).values(condemned_us=1))
        connection.execute(sa.delete(job_turns))

    trash.expire(services.database, 30)
    services.database.write(work)


def test_server_and_collector_killed_under_load_lose_nothing(tmp_path: Path, database_url: str | None) -> None:
    """The server collects from its start on, `aistore gc` beside it, and three clients upload, read and delete."""
    data, chance, done, key = tmp_path / "served", random.Random(7), Acknowledged(), ""
    where = ["--data", str(data)] + ([] if database_url is None else ["--database-url", database_url])
    count, moved = sa.select(sa.func.count()).select_from(tables.moved_records), 0
    for turn in range(KILLS):
        with run_server(data, database_url) as serving:
            key = serving.api_key or key
            look(serving, key, done)
            collecting = subprocess.Popen(
                [sys.executable, "-m", "t9k.aistore", *where, "gc", "--json"], stdout=subprocess.DEVNULL
            )
            threads = [
                threading.Thread(target=work, args=(serving, key, 10 * turn + number, done)) for number in range(3)
            ]
            began = len(done.artifacts)
            for thread in threads:
                thread.start()
            while len(done.artifacts) < began + 3:  # however slow the machine is
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 2.0))
            for process in (serving.process, collecting) if turn % 2 else (collecting, serving.process):
                process.kill()
            collecting.wait()
            for thread in threads:
                thread.join()
        services = open_services(Settings(data_dir=data, database_url=database_url))
        try:
            found = [one for one in check(services.database, services.blobs, read=True) if one.is_loss]
            assert found == []
            moved += services.database.read(lambda connection: connection.execute(count).scalar_one())
            pass_a_day(services)
        finally:
            services.close()
    with run_server(data, database_url) as serving:
        look(serving, key, done)
    services = open_services(Settings(data_dir=data, database_url=database_url))
    try:
        for _ in range(2):
            check_objects(services.database, services.blobs)
            pass_a_day(services)
            finish(services)
        assert list(check(services.database, services.blobs, read=True)) == []
        assert_tidy(services, done.artifacts)
    finally:
        services.close()
    assert done.artifacts
    assert moved > 0
    with run_server(data, database_url) as serving:
        look(serving, key, done)


def test_full_disk_ends_it_and_the_service_goes_on(
    small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = small_disk(64)
    with (
        run_server(mount / "served") as serving,
        contextlib.closing(open_services(Settings(data_dir=mount / "served"))) as services,
        contextlib.closing(client_of(serving, serving.api_key)) as uploader,
    ):
        kept = [noise(("kept", at), 1 << 20) for at in range(3)]
        gone = [noise(("gone", at), 1 << 20) for at in range(5)]
        whole = uploader.upload(Content({"kept": kept, "gone": gone}))["node"]["id"]
        node_id = uploader.commit(Content({"kept": kept})).json()["node"]["id"]
        check_objects(services.database, services.blobs)
        uploader.call("DELETE", f"/nodes/{whole}")
        uploader.call("DELETE", f"/trash/{whole}")
        pass_a_day(services)
        limits = Limits(written_bytes=0)
        collect(services.database, services.blobs, lease_s=LATER, grace_s=86_400, limits=limits)
        assert json.loads(gc(mount, "--dry-run"))["rewritten_packs"] == 1
        filler = mount / "filler"
        filler.write_bytes(bytes(room(mount) - (2 << 20)))  # not as much as a new pack takes
        before = sorted(blob.key for blob in services.blobs.list())
        assert json.loads(gc(mount))["rewritten_packs"] == 0  # it sees that, and begins nothing
        with monkeypatch.context() as blind:
            blind.setattr(services.blobs, "room", lambda: None)  # as when uploads take the room meanwhile
            done = collect(services.database, services.blobs, lease_s=LATER, grace_s=86_400)
        assert done.rewritten_packs == 0
        assert sorted(blob.key for blob in services.blobs.list()) == before
        assert room(mount) > 1 << 20
        uploader.lease = None
        assert uploader.put(pack_of([noise(("long", at), 1 << 20) for at in range(3)])).status_code == 507
        assert uploader.put(pack_of([noise("short", 1000)])).status_code == 201
        assert uploader.download(node_id) == {digest(b"".join(kept)): b"".join(kept)}
        filler.unlink()
        assert json.loads(gc(mount, "--grace", "0"))["rewritten_packs"] == 1
        assert uploader.download(node_id) == {digest(b"".join(kept)): b"".join(kept)}
        assert list(check(services.database, services.blobs, read=True)) == []


def room(mount: Path) -> int:
    """Bytes that are free."""
    status = os.statvfs(mount)
    return status.f_bavail * status.f_frsize


def gc(mount: Path, *options: str) -> str:
    """What `aistore gc` says, in a process of its own."""
    command = [sys.executable, "-m", "t9k.aistore", "--data", str(mount / "served"), "gc", "--json", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout

"""Packs of which little is used: rewritten beside everything else, and nothing that anybody has is ever lost."""

from __future__ import annotations

import errno
import json
import logging
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from harness import Account
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient
from t9k.aistore import backup as backups
from t9k.aistore.artifacts import compaction
from t9k.aistore.artifacts.check import check
from t9k.aistore.artifacts.compaction import Limits
from t9k.aistore.artifacts.gc import Collected, collect, look_ahead, sweep
from t9k.aistore.artifacts.verification import check_objects
from t9k.aistore.cli import main
from t9k.aistore.db import Database, dump
from t9k.aistore.db.tables import artifacts as tables
from t9k.aistore.db.tables import tree
from t9k.aistore.services import Services, open_services
from t9k.aistore.settings import Settings
from uploads import Content, Uploader, digest, noise, pack_of, record

LATER = -10
"""Seconds: of leases and graces that are over already."""

DAY = 86_400
NOT_NOW = Limits(written_bytes=0)


def run(services: Services, *, grace_s: int = DAY, limits: Limits = compaction.UNLIMITED) -> Collected:
    return collect(services.database, services.blobs, lease_s=LATER, grace_s=grace_s, limits=limits)


def expire_leases(services: Services) -> None:
    services.database.write(lambda connection: connection.execute(sa.update(tables.leases).values(expires_us=1)))


def delete_node(services: Services, node_id: str) -> None:
    """For good, as when the trash is emptied; its objects go, too, and no pack is looked at yet."""

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.delete(tables.commits))
        connection.execute(sa.delete(tree.nodes).where(tree.nodes.c.id == node_id))

    services.database.write(work)
    run(services, limits=NOT_NOW)


def sparse(
    uploader: Uploader, services: Services, kept: list[bytes], gone: list[bytes], *, is_leased: bool = False
) -> str:
    """An artifact with the chunks that are kept, sent in one pack with others that nothing has any more."""
    whole = uploader.upload(Content({"kept": kept, "gone": gone}))["node"]["id"]
    answer = uploader.commit(Content({"kept": kept}))
    assert answer.status_code == 201, answer.text
    check_objects(services.database, services.blobs)
    if not is_leased:
        expire_leases(services)
        uploader.lease = None
    delete_node(services, whole)
    node_id: str = answer.json()["node"]["id"]
    return node_id


def one(name: object, *, gone: int = 3) -> tuple[list[bytes], list[bytes]]:
    """Two chunks to be kept and three that are not."""
    return [noise((name, at), 3000 + at) for at in range(2)], [noise((name, "gone", at), 4000) for at in range(gone)]


def packs_of(services: Services) -> list[Any]:
    """All packs, the oldest first."""
    query = sa.select(tables.packs).order_by(tables.packs.c.id)
    return services.database.read(lambda connection: list(connection.execute(query)))


def problems(services: Services) -> list[Any]:
    return list(check(services.database, services.blobs, read=True))


def pack_blobs(services: Services) -> dict[str, int]:
    """Bytes of all blobs of packs by their keys."""
    return {blob.key: blob.size_bytes for blob in services.blobs.list("packs")}


def read_is(uploader: Uploader, node_id: str, *chunks: bytes) -> bool:
    return uploader.download(node_id) == {digest(b"".join(chunks)): b"".join(chunks)}


def places(uploader: Uploader, node_id: str, chunks: list[bytes]) -> list[tuple[bytes, int, int]]:
    """What `locate` answers."""
    answer = uploader.call("POST", f"/artifacts/{node_id}/locate", content=b"".join(map(digest, chunks)))
    assert answer.status_code == 200, answer.text
    return list(struct.iter_unpack("<32sQI", answer.content))


def get(uploader: Uploader, node_id: str, place: tuple[bytes, int, int]) -> Any:
    pack, offset, length = place
    headers = {"Range": f"bytes={offset}-{offset + length - 1}"}
    return uploader.call("GET", f"/packs/{pack.hex()}", params={"artifact": node_id}, headers=headers)


def during_put(services: Services, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> list[str]:
    """Does something once, when a new pack is stored and no row names it yet. The answer gets the keys of new packs."""
    put, stored = services.blobs.put_if_absent, list[str]()

    def put_and_act(key: str, data: bytes) -> bool:
        is_new = put(key, data)
        stored.append(key)
        if len(stored) == 1:
            act()
        return is_new

    monkeypatch.setattr(services.blobs, "put_if_absent", put_and_act)
    return stored


def test_used_chunks_of_several_packs_are_gathered_in_one(uploader: Uploader, services: Services) -> None:
    made = {}
    for number in range(4):
        kept, gone = one(number)
        made[sparse(uploader, services, kept, gone)] = kept
    old = {pack.blob_key: pack.size_bytes for pack in packs_of(services)}
    assert pack_blobs(services) == old
    done = run(services)
    expected = pack_of([chunk for kept in made.values() for chunk in kept])
    records = sum(len(record(chunk)) for kept in made.values() for chunk in kept)
    assert done == Collected(rewritten_packs=4, read_bytes=records, written_bytes=len(expected))
    assert run(services) == Collected(condemned_packs=4)
    new = packs_of(services)[-1]
    assert services.blobs.get(new.blob_key) == expected
    assert all(read_is(uploader, node_id, *kept) for node_id, kept in made.items())
    assert run(services, grace_s=LATER) == Collected(deleted_packs=4, deleted_bytes=sum(old.values()))
    assert pack_blobs(services) == {new.blob_key: len(expected)}
    assert all(read_is(uploader, node_id, *kept) for node_id, kept in made.items())
    assert problems(services) == []
    query = sa.select(sa.func.count()).select_from(tables.moved_records)
    assert services.database.read(lambda connection: connection.execute(query).scalar()) == 0
    assert run(services) == Collected()


def test_pack_of_which_half_is_used_stays(uploader: Uploader, services: Services) -> None:
    """Exactly half is the last that stays: half of it is worth no more than what is written for it."""
    frame, both = 32, 41 + 41  # of a pack, and of each record: its head and its line in the footer
    kept, gone = [noise("kept", 3000), noise("too", 100)], [noise("gone", 3100 + both + frame)]
    sparse(uploader, services, kept, gone)
    (pack,) = packs_of(services)
    assert pack.size_bytes == 2 * len(pack_of(kept))
    assert run(services) == Collected()
    less = [noise("less", 2999), noise("so", 100)]
    node_id = sparse(uploader, services, less, [noise("more", 3100 + both + frame)])
    assert run(services).rewritten_packs == 1
    assert read_is(uploader, node_id, *less)


def test_pack_with_one_chunk_of_its_own_is_rewritten(uploader: Uploader, services: Services) -> None:
    """As when two uploads at once sent the same chunks, and one of them one more."""
    shared, own = [noise(at, 5000) for at in range(3)], [noise("own", 500), noise("more", 400)]
    first = uploader.upload(Content({"x": shared}))["node"]["id"]
    assert uploader.put(pack_of([*shared, *own])).status_code == 201
    second = uploader.upload(Content({"x": shared, "y": own}))["node"]["id"]
    check_objects(services.database, services.blobs)
    assert run(services).written_bytes == len(pack_of(own))
    expire_leases(services)
    for _ in range(2):
        run(services, grace_s=LATER)
    assert sum(pack_blobs(services).values()) == len(pack_of(shared)) + len(pack_of(own))
    assert read_is(uploader, first, *shared)
    assert set(uploader.download(second)) == {digest(b"".join(shared)), digest(b"".join(own))}
    assert problems(services) == []


def test_packs_of_users_are_not_mixed(api: TestClient, services: Services, ada: Account, bob: Account) -> None:
    made = []
    for account in (ada, bob):
        uploader = Uploader(api, account)
        kept, gone = one("both")  # the same bytes, which neither may learn of the other
        made.append((uploader, sparse(uploader, services, kept, gone), kept))
    assert run(services).rewritten_packs == 2
    domains = [pack.domain_id for pack in packs_of(services)]
    assert len(domains) == 4
    assert domains[:2] == domains[2:]
    for uploader, node_id, kept in made:
        assert read_is(uploader, node_id, *kept)
    assert problems(services) == []


def test_who_was_told_the_old_places_reads_there_until_the_pack_goes(
    uploader: Uploader, services: Services, api: TestClient, bob: Account
) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    before = places(uploader, node_id, kept)
    other = Uploader(api, bob)
    for _ in range(3):  # used, then reached by nothing, then condemned
        for place, chunk in zip(before, kept, strict=True):
            answer = get(uploader, node_id, place)
            assert (answer.status_code, answer.content) == (206, record(chunk))
            assert get(other, node_id, place).status_code == 404
        run(services)
    pack, start, _ = before[0]
    whole = get(uploader, node_id, (pack, 0, len(pack_of(kept + gone)))).content
    assert whole[start : start + 2 * 3041 + 1] == record(kept[0]) + record(kept[1])
    assert not any(whole[:start])
    assert not any(whole[start + 2 * 3041 + 1 :])  # what was deleted is told to nobody
    assert places(uploader, node_id, kept) != before
    run(services, grace_s=LATER)
    assert get(uploader, node_id, before[0]).status_code == 404
    assert get(uploader, node_id, places(uploader, node_id, kept)[0]).content == record(kept[0])


def test_old_places_tell_nothing_of_what_was_deleted_since(uploader: Uploader, services: Services) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    other = uploader.upload(Content({"other": [b"other"]}))["node"]["id"]
    place = places(uploader, node_id, kept)[0]
    run(services)
    assert get(uploader, other, place).status_code == 404  # a version that has no chunk of it
    delete_node(services, node_id)
    assert get(uploader, node_id, place).status_code == 404


def test_lease_goes_along_and_keeps_what_it_kept(uploader: Uploader, services: Services) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    assert uploader.missing(kept + gone) == []  # takes a lease on the pack, and on what nothing uses in it
    assert run(services).rewritten_packs == 1
    delete_node(services, node_id)
    for _ in range(3):
        assert run(services, grace_s=LATER).deleted_packs == 0
    assert uploader.commit(Content({"kept": kept, "gone": gone})).status_code == 201
    assert problems(services) == []


def test_lease_that_is_taken_after_chunks_moved_keeps_them(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the lease of one request."""
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    uploader.missing(gone[:1])  # else the pack would be condemned, and its chunks be called missing
    uploader.lease = None
    write = services.database.write

    def write_after(work: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(services.database, "write", write)
        assert run(services).rewritten_packs == 1
        return write(work, *arguments)

    monkeypatch.setattr(services.database, "write", write_after)
    assert uploader.missing(kept) == []
    delete_node(services, node_id)
    for _ in range(3):
        run(services, grace_s=LATER)
    assert uploader.commit(Content({"kept": kept})).status_code == 201
    assert problems(services) == []


def test_lease_is_not_taken_for_what_was_condemned_since(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the lease of one request, the old pack and the new one."""
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    assert run(services).rewritten_packs == 1
    write = services.database.write

    def write_after(work: Any, *arguments: Any) -> Any:
        monkeypatch.setattr(services.database, "write", write)
        delete_node(services, node_id)
        run(services, limits=NOT_NOW)
        return write(work, *arguments)

    monkeypatch.setattr(services.database, "write", write_after)
    assert len(uploader.missing(kept)) == len(kept)
    assert problems(services) == []


def test_packs_that_came_into_use_again_since_they_were_listed_stay(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for number in range(3):
        made.append(one(number))
        sparse(uploader, services, *made[-1], is_leased=True)
    listed = list(compaction.groups(services.database))
    monkeypatch.setattr(compaction, "groups", lambda *_, **__: iter(listed))
    sent = uploader.sent_packs
    whole = [uploader.upload(Content({"x": [*kept, *gone]}))["node"]["id"] for kept, gone in made]
    assert uploader.sent_packs == sent
    assert run(services) == Collected()
    assert all(read_is(uploader, node_id, *kept, *gone) for node_id, (kept, gone) in zip(whole, made, strict=True))
    assert problems(services) == []


def test_packs_that_no_pack_takes_any_more_end_no_collection(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sparse(uploader, services, *one(1))
    sparse(uploader, services, *one(2))
    monkeypatch.setattr(compaction, "PACK_BYTES", 1)  # each pack by itself
    real, tried = compaction.engine.PackCopier, []

    def full_once(size_bytes: int) -> Any:
        tried.append(size_bytes)
        if len(tried) == 1:
            raise compaction.engine.EngineError("the pack is full")
        return real(size_bytes)

    monkeypatch.setattr(compaction.engine, "PackCopier", full_once)
    assert run(services).rewritten_packs == 1
    assert "the pack is full" in caplog.text


def test_new_pack_that_a_sweep_took_for_a_dead_upload_s_is_named_by_no_row(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    swept: list[int] = []
    with monkeypatch.context() as meanwhile:
        all_blobs = -1_000_000
        during_put(services, meanwhile, lambda: swept.append(sweep(services.database, services.blobs, all_blobs)))
        assert run(services).rewritten_packs == 0
    assert swept == [1]
    assert read_is(uploader, node_id, *kept)
    assert problems(services) == []
    assert run(services).rewritten_packs == 1


def test_check_looks_at_where_chunks_were(uploader: Uploader, services: Services) -> None:
    sparse(uploader, services, *one(1))
    assert run(services).rewritten_packs == 1
    moved = tables.moved_records
    elsewhere = sa.update(moved).values(offset=moved.c.offset + 1)
    services.database.write(lambda connection: connection.execute(elsewhere))
    assert {problem.kind for problem in problems(services)} == {"rows"}


def test_chunk_that_comes_into_use_meanwhile_stays_where_it_is(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    found: list[str] = []

    def upload() -> None:
        """Sends nothing: all its chunks are there."""
        packs = uploader.sent_packs
        found.append(uploader.upload(Content({"again": [*gone[:1], *kept]}))["node"]["id"])
        assert uploader.sent_packs == packs

    during_put(services, monkeypatch, upload)
    assert run(services).rewritten_packs == 1
    check_objects(services.database, services.blobs)
    expire_leases(services)
    for _ in range(4):
        run(services, grace_s=LATER)
        assert read_is(uploader, node_id, *kept)
        assert read_is(uploader, found[0], *gone[:1], *kept)
        assert problems(services) == []
    assert len(pack_blobs(services)) == 2  # the old pack, with one used chunk, was rewritten as well


def test_artifact_that_is_deleted_meanwhile_leaves_nothing(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    during_put(services, monkeypatch, lambda: delete_node(services, node_id))
    run(services)
    assert problems(services) == []
    for _ in range(3):
        run(services, grace_s=LATER)
    assert pack_blobs(services) == {}
    assert packs_of(services) == []


def test_second_collector_beside_the_first_changes_nothing_more(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    stored = during_put(services, monkeypatch, lambda: run(services))
    assert run(services).rewritten_packs == 0  # the other one, in the midst of it, was as fast
    assert len(stored) == 2
    assert services.blobs.size(stored[0]) is None
    assert len(packs_of(services)) == 2
    for _ in range(2):
        run(services, grace_s=LATER)
    assert list(pack_blobs(services)) == [stored[1]]
    assert read_is(uploader, node_id, *kept)
    assert problems(services) == []


def test_collectors_that_race_lose_nothing(uploader: Uploader, services: Services) -> None:
    """Each with a `Database` of its own, as servers have that share one; and uploads that need the same chunks."""
    made = {}
    for number in range(6):
        kept, gone = one(number)
        made[sparse(uploader, services, kept, gone)] = kept
    others = [Database(services.settings.url_of_database) for _ in range(3)]
    try:
        with ThreadPoolExecutor(5) as pool:
            racing = [
                pool.submit(collect, other, services.blobs, lease_s=3600, grace_s=DAY)
                for _ in range(3)
                for other in others
            ]
            for number in range(6):
                content = Content({"x": [*one(number)[0], noise(("new", number), 100)]})
                made[uploader.upload(content)["node"]["id"]] = content.chunks
            for job in racing:
                job.result()
    finally:
        for other in others:
            other.close()
    assert all(read_is(uploader, node_id, *kept) for node_id, kept in made.items())
    check_objects(services.database, services.blobs)
    expire_leases(services)
    for _ in range(4):
        run(services, grace_s=LATER)
    assert sweep(services.database, services.blobs, older_than_us=-1_000_000) == 0
    assert all(read_is(uploader, node_id, *kept) for node_id, kept in made.items())
    assert problems(services) == []
    used = len({chunk for chunks in made.values() for chunk in chunks})
    assert sum(pack_blobs(services).values()) < 2 * (used * 3100 + 2000)


@pytest.mark.parametrize("is_condemned", [False, True], ids=["unused", "condemned"])
def test_pack_with_the_very_chunks_takes_the_place_of_a_new_one(
    uploader: Uploader, services: Services, is_condemned: bool
) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    assert uploader.put(pack_of(kept)).status_code == 201  # all its chunks lie in the other already
    twin = packs_of(services)[-1]
    if is_condemned:
        expire_leases(services)
        assert run(services, limits=NOT_NOW).condemned_packs == 1
    assert run(services).rewritten_packs == 1
    assert len(packs_of(services)) == 2
    expire_leases(services)
    for _ in range(2):
        run(services, grace_s=LATER)
    assert list(pack_blobs(services)) == [twin.blob_key]
    assert read_is(uploader, node_id, *kept)
    assert problems(services) == []


def test_damaged_pack_does_not_take_the_place_of_a_new_one(uploader: Uploader, services: Services) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    uploader.put(pack_of(kept))
    spoil(services, packs_of(services)[-1], 100)
    for _ in range(2):
        assert run(services).rewritten_packs == 0
        assert read_is(uploader, node_id, *kept)
    expire_leases(services)
    for _ in range(3):
        run(services, grace_s=LATER)  # it is deleted, and no longer in the way
    assert len(pack_blobs(services)) == 1
    assert read_is(uploader, node_id, *kept)
    assert problems(services) == []


def spoil(services: Services, pack: Any, at: int) -> None:
    """Flips a bit in the blob of a pack."""
    path = services.settings.data_dir / "blobs" / pack.blob_key
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_damaged_chunk_stays_and_the_good_ones_move(
    uploader: Uploader, services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = [noise("good", 2000)], [noise("bad", 2000)]
    gone = [noise(("gone", at), 3000) for at in range(3)]
    whole = uploader.upload(Content({"good": good, "bad": bad, "gone": gone}))["node"]["id"]
    node_id = uploader.commit(Content({"good": good, "bad": bad})).json()["node"]["id"]
    expire_leases(services)
    delete_node(services, whole)
    (old,) = packs_of(services)
    place = places(uploader, node_id, bad)[0]
    spoil(services, old, place[1] + 50)
    (found,) = problems(services)
    assert found.kind == "damaged"
    for turn in range(3):
        caplog.clear()
        done = run(services, grace_s=LATER)
        assert done.damaged_chunks == 1
        assert done.rewritten_packs == (turn == 0)
        (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
        assert bytes(old.digest).hex() in line.message
        assert digest(bad[0]).hex() in line.message
        assert problems(services) == [found]
    assert places(uploader, node_id, bad) == [place]  # where it was: nobody calls it good
    new = packs_of(services)[-1]
    assert services.blobs.get(new.blob_key) == pack_of(good)
    assert get(uploader, node_id, places(uploader, node_id, good)[0]).content == record(good[0])


@pytest.mark.parametrize("fault", ["missing", "unreadable"])
def test_pack_that_cannot_be_read_stays_and_holds_up_no_other(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    lost = sparse(uploader, services, *one("lost"))
    (pack,) = packs_of(services)
    kept, gone = one("other")
    node_id = sparse(uploader, services, kept, gone)
    if fault == "missing":
        services.blobs.delete(pack.blob_key)
    else:
        read = services.blobs.get
        bad = places(uploader, lost, one("lost")[0])[0]

        def get_or_fail(key: str, offset: int = 0, length: int | None = None, more: int = 0) -> bytes:
            if key == pack.blob_key and offset <= bad[1] and (length is None or offset + length > bad[1]):
                raise OSError(errno.EIO, "a bad block")
            return read(key, offset, length, more)

        monkeypatch.setattr(services.blobs, "get", get_or_fail)
    done = run(services)
    assert done.rewritten_packs == 2
    assert done.damaged_chunks == (2 if fault == "missing" else 1)
    for _ in range(2):
        run(services, grace_s=LATER)
    assert read_is(uploader, node_id, *kept)
    assert pack.id in [one.id for one in packs_of(services)]
    if fault == "unreadable":
        monkeypatch.undo()
        assert read_is(uploader, lost, *one("lost")[0])  # the disk has come back
        assert problems(services) == []


def test_full_disk_ends_it_and_nothing_is_left_or_lost(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    before = pack_blobs(services)

    def fail(descriptor: int, data: Any) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    with monkeypatch.context() as full:
        full.setattr("t9k.aistore.blobs.local.os.write", fail)
        assert run(services).rewritten_packs == 0
    assert "no space left" in caplog.text
    assert pack_blobs(services) == before
    assert services.blobs.sweep(2**62) == 0  # no temporary either
    assert read_is(uploader, node_id, *kept)
    assert run(services).rewritten_packs == 1


def test_a_quarter_of_the_room_is_used_at_most(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for number in range(4):
        kept, gone = ([noise((number, of, at), 1 << 20) for at in range(count)] for of, count in (("k", 2), ("g", 3)))
        made[sparse(uploader, services, kept, gone)] = kept
    monkeypatch.setattr(compaction, "PACK_BYTES", 3 << 20)  # one of them at a time
    free = 18 << 20  # without what is there twice
    written = []
    for _ in range(3):
        used = sum(written)
        monkeypatch.setattr(services.blobs, "room", lambda used=used: free - used)
        written.append(run(services).written_bytes)
    assert [round(count / (2 << 20)) for count in written] == [2, 0, 0]
    run(services, grace_s=LATER)
    monkeypatch.setattr(services.blobs, "room", lambda: None)  # of a store without a limit
    run(services)
    assert all(read_is(uploader, node_id, *kept) for node_id, kept in made.items())
    assert problems(services) == []


def test_round_has_a_limit_and_rests(uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        sparse(uploader, services, *one(number))
    monkeypatch.setattr(compaction, "PACK_BYTES", 1)  # each pack by itself
    rested: list[float] = []
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        rested.append(seconds)
        now += seconds

    put = services.blobs.put_if_absent

    def put_slowly(key: str, data: bytes) -> bool:
        nonlocal now
        now += 0.5
        return put(key, data)

    monkeypatch.setattr(services.blobs, "put_if_absent", put_slowly)
    monkeypatch.setattr(compaction, "time", SimpleNamespace(sleep=sleep, monotonic=lambda: now))
    each = len(pack_of(one(0)[0]))
    done = run(services, limits=Limits(written_bytes=2 * each + 100, rest=3.0))
    assert (done.rewritten_packs, done.written_bytes) == (2, 2 * each)
    assert sum(rested) == pytest.approx(2 * 3.0 * 0.5)
    assert run(services).rewritten_packs == 2


def test_server_that_stops_ends_with_the_pack_it_is_at(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {}
    for number in range(3):
        kept, gone = one(number)
        made[sparse(uploader, services, kept, gone)] = kept
    monkeypatch.setattr(compaction, "PACK_BYTES", 1)  # each pack by itself

    def rewritten(is_stopping: Callable[[], bool]) -> int:
        found = compaction.compact(services.database, services.blobs, compaction.UNLIMITED, is_stopping)
        return sum(each.packs for each in found)

    before = pack_blobs(services)
    assert rewritten(lambda: True) == 0
    assert pack_blobs(services) == before
    stored = during_put(services, monkeypatch, lambda: None)
    assert rewritten(lambda: bool(stored)) == 1
    assert set(pack_blobs(services)) == {*before, *stored}
    assert rewritten(lambda: False) == 2
    assert all(read_is(uploader, node_id, *kept) for node_id, kept in made.items())
    assert problems(services) == []


def test_backup_taken_meanwhile_is_whole(
    uploader: Uploader, services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packs are rewritten, and old ones overdue, between its rows and its blobs."""
    made = {}
    for number in range(3):
        kept, gone = one(number)
        made[sparse(uploader, services, kept, gone)] = kept
    revision = dump.revision

    def compact_now(connection: sa.Connection) -> str | None:
        monkeypatch.setattr(dump, "revision", revision)
        if not services.database.is_sqlite:  # whose snapshot is this thread's
            with ThreadPoolExecutor(1) as other:
                assert other.submit(run, services, grace_s=LATER).result().rewritten_packs == 3
        return revision(connection)

    listed = services.blobs.list

    def compact_before_list(prefix: str = "") -> Any:
        monkeypatch.setattr(services.blobs, "list", listed)
        for _ in range(3):
            assert run(services, grace_s=LATER).deleted_packs == 0  # held
        return listed(prefix)

    monkeypatch.setattr(dump, "revision", compact_now)
    monkeypatch.setattr(services.blobs, "list", compact_before_list)
    backups.backup(services.database, services.blobs, tmp_path / "backup")
    restored = open_services(Settings(data_dir=tmp_path / "restored"), schema=False)
    try:
        backups.restore(tmp_path / "backup", restored.database, restored.blobs)
        sweep(restored.database, restored.blobs, older_than_us=-1_000_000)
        assert problems(restored) == []
        for _ in range(3):
            run(restored, grace_s=LATER)
        assert problems(restored) == []
        assert len(pack_blobs(restored)) == 1
    finally:
        restored.close()
    for _ in range(2):
        run(services, grace_s=LATER)
    assert len(pack_blobs(services)) == 1
    assert all(read_is(uploader, node_id, *kept) for node_id, kept in made.items())


def test_condemned_pack_that_is_sent_again_serves_old_and_new_places(uploader: Uploader, services: Services) -> None:
    kept, gone = one(1)
    node_id = sparse(uploader, services, kept, gone)
    before = places(uploader, node_id, kept)
    for _ in range(2):
        run(services)
    assert uploader.put(pack_of([*kept, *gone])).status_code == 200  # it is not written again
    again = uploader.commit(Content({"kept": kept, "gone": gone})).json()["node"]["id"]
    check_objects(services.database, services.blobs)
    assert [get(uploader, node_id, place).content for place in before] == list(map(record, kept))
    assert set(uploader.download(again)) == {digest(b"".join(kept)), digest(b"".join(gone))}
    expire_leases(services)
    for _ in range(3):
        run(services, grace_s=LATER)
        assert problems(services) == []
    delete_node(services, again)
    for _ in range(3):  # its chunks have gone for the second time
        run(services, grace_s=LATER)
        assert problems(services) == []
    assert read_is(uploader, node_id, *kept)
    assert len(pack_blobs(services)) == 1


@pytest.mark.parametrize("grace_s", [0, DAY])
def test_dry_run_tells_to_the_byte_what_comes(uploader: Uploader, services: Services, grace_s: int) -> None:
    for number in range(3):
        sparse(uploader, services, *one(number))
    uploader.put(pack_of([b"never committed"]))
    expire_leases(services)
    where = ["--data", str(services.settings.data_dir)]
    where += ["--database-url", services.settings.database_url] if services.settings.database_url else []

    def command(*arguments: str) -> dict[str, int]:
        result = CliRunner().invoke(main, [*where, "gc", "--grace", str(grace_s), *arguments, "--json"])
        assert result.exit_code == 0, result.output
        found: dict[str, int] = json.loads(result.stdout)
        return found

    before = pack_blobs(services)
    told = command("--dry-run")
    assert command("--dry-run") == told
    assert pack_blobs(services) == before
    text = CliRunner().invoke(main, [*where, "gc", "--dry-run"])
    assert "condemn 1 (0.0 MB) and rewrite 3 (0.1 MB) to 0.0 MB" in text.output
    done = command()
    after = pack_blobs(services)
    assert told["rewritten_packs"] == done["rewritten_packs"] == 3
    assert told["written_bytes"] == done["written_bytes"] == sum(after[key] for key in after if key not in before)
    assert told["rewritten_bytes"] == sum(before.values()) - told["condemned_bytes"]
    assert told["condemned_packs"] == 1
    assert told["condemned_bytes"] == len(pack_of([b"never committed"]))
    if grace_s == 0:
        assert sum(before.values()) - sum(after.values()) == told["freed_bytes"] + told["condemned_bytes"]
    else:
        assert set(before) <= set(after)
    assert look_ahead(services.database, lease_s=3600, grace_s=DAY).rewritten_packs == 0
    assert problems(services) == []


def test_background_tells_metrics_and_log(
    uploader: Uploader,
    services: Services,
    api: TestClient,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, gone = one(1)
    sparse(uploader, services, kept, gone)
    caplog.set_level(logging.INFO)
    compact, given = compaction.compact, list[Limits]()

    def note_limits(database: Database, blobs: Any, limits: Limits, *more: Any) -> Any:
        given.append(limits)
        return compact(database, blobs, limits, *more)

    monkeypatch.setattr(compaction, "compact", note_limits)
    (job,) = [each for each in services.background._jobs if each.name == "collect-garbage"]
    job.run()
    assert given == [compaction.IN_BACKGROUND]
    (line,) = [each for each in caplog.records if each.message == "garbage was collected"]
    assert line.fields["rewritten_packs"] == 1  # type: ignore[attr-defined]
    text = api.get("/metrics").text
    assert "aistore_gc_rewritten_packs_total 1.0" in text
    assert f"aistore_gc_written_bytes_total {float(len(pack_of(kept)))}" in text
    assert uploader.account.name not in line.getMessage() + json.dumps(line.fields)  # type: ignore[attr-defined]


PACKS = st.lists(
    st.tuples(st.integers(74, 32 << 20), st.integers(1, 256 << 20), st.integers(1, 1 << 16), st.integers(1, 3)),
    max_size=60,
)


def listing(found: list[Any]) -> Any:
    """A database that knows nothing but these packs, all of them sparse, numbered from 0 on."""

    def read(work: object, *arguments: Any) -> Any:
        first, second, *more = arguments
        return found[first:second] if more else range(0, len(found), second)

    return SimpleNamespace(read=read)


def test_new_pack_takes_the_place_of_so_many_at_most() -> None:
    size = {"size_bytes": 1000, "live_bytes": 74, "raw_bytes": 1, "count": 1, "domain_id": 1}
    found = [SimpleNamespace(id=at, **size) for at in range(2 * compaction.MOST_SOURCES + 1)]
    groups = list(compaction.groups(listing(found)))
    assert [len(group.packs) for group in groups] == [compaction.MOST_SOURCES, compaction.MOST_SOURCES, 1]


@pytest.mark.parametrize(("start", "first"), [(0.0, 0), (0.7, 2), (0.99, 3)])
def test_round_with_a_limit_begins_anywhere(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch, start: float, first: int
) -> None:
    for number in range(4):
        sparse(uploader, services, *one(number))
    old = [pack.id for pack in packs_of(services)]
    monkeypatch.setattr(compaction, "_RANGE", 1)
    monkeypatch.setattr(compaction, "PACK_BYTES", 1)  # each pack by itself
    monkeypatch.setattr(compaction, "random", SimpleNamespace(random=lambda: start))
    each = len(pack_of(one(0)[0]))
    assert run(services, limits=Limits(written_bytes=each)).rewritten_packs == 1
    moved = sa.select(tables.moved_records.c.pack_id).distinct()
    assert services.database.read(lambda connection: connection.execute(moved).scalar_one()) == old[first]


@given(PACKS)
def test_groups_have_every_pack_once_and_fit_in_one(rows: list[tuple[int, int, int, int]]) -> None:
    found = [
        SimpleNamespace(id=at, size_bytes=3 * live, live_bytes=live, raw_bytes=raw, count=count, domain_id=domain)
        for at, (live, raw, count, domain) in enumerate(rows)
    ]
    groups = list(compaction.groups(listing(found)))
    assert sorted(pack.id for group in groups for pack in group.packs) == list(range(len(found)))
    for group in groups:
        assert {pack.domain_id for pack in group.packs} == {group.domain_id}
        assert group.written_bytes == 32 + sum(pack.live_bytes - 32 for pack in group.packs)
        assert group.freed_bytes == sum(pack.size_bytes for pack in group.packs) - group.written_bytes
        assert len(group.packs) == 1 or group.written_bytes <= compaction.PACK_BYTES
        assert sum(pack.raw_bytes for pack in group.packs) <= compaction.MOST_RAW_BYTES
        assert sum(pack.count for pack in group.packs) <= compaction.MOST_CHUNKS

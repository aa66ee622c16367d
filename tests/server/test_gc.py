"""The garbage collector: what it keeps, what it lets go, and in which order."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from t9k.aistore.artifacts.check import Idle, check, idle
from t9k.aistore.artifacts.gc import Collected, Prospect, collect, look_ahead, sweep
from t9k.aistore.artifacts.verification import check_objects
from t9k.aistore.cli import main
from t9k.aistore.db import dump, garbage
from t9k.aistore.db.tables import artifacts as tables
from t9k.aistore.db.tables import tree
from t9k.aistore.services import Services
from uploads import Content, Uploader, noise, pack_of, record

ONE = Content({"x": [noise(1, 900), noise(2, 900)], "y": [b"y"]})
TWO = Content({"x": [noise(1, 900), noise(2, 900)], "z": [b"z"]})
RECORD_BYTES = 41
"""Of a record without its chunk, which the footer has again."""

LATER = -10
"""Seconds: of leases and graces that are over already."""


def run(services: Services, *, lease_s: int = LATER, grace_s: int = LATER) -> Collected:
    return collect(services.database, services.blobs, lease_s=lease_s, grace_s=grace_s)


def expire_leases(services: Services) -> None:
    services.database.write(lambda connection: connection.execute(sa.update(tables.leases).values(expires_us=1)))


def delete_node(services: Services, node_id: str) -> None:
    """For good, as when the trash is emptied."""
    services.database.write(
        lambda connection: connection.execute(sa.delete(tree.nodes).where(tree.nodes.c.id == node_id))
    )


def blobs(services: Services) -> int:
    return len(list(services.blobs.list()))


def test_collector_leaves_what_a_version_has(uploader: Uploader, services: Services) -> None:
    node_id = uploader.upload(ONE)["node"]["id"]
    check_objects(services.database, services.blobs)
    expire_leases(services)
    for _ in range(3):
        assert run(services) == Collected()
    assert uploader.download(node_id)
    assert list(check(services.database, services.blobs, read=True)) == []


def test_collector_takes_what_nothing_has_in_two_runs(uploader: Uploader, services: Services) -> None:
    first, second = uploader.upload(ONE), uploader.upload(TWO)
    expire_leases(services)
    delete_node(services, first["node"]["id"])
    assert run(services) == Collected(manifests=1, objects=1)  # both packs are in use: ONE's has the chunks of TWO's x
    delete_node(services, second["node"]["id"])
    assert run(services, grace_s=1000) == Collected(manifests=1, objects=2, condemned_packs=2)
    assert blobs(services) == 2
    uploader.lease = None
    assert uploader.missing(ONE.chunks) == ONE.chunks
    done = run(services)
    assert done.deleted_packs == 2
    assert blobs(services) == 0
    for table in (tables.packs, tables.chunks, tables.objects, tables.manifests, tables.doomed_blobs):
        query = sa.select(sa.func.count()).select_from(table)
        assert services.database.read(lambda connection, query=query: connection.execute(query).scalar()) == 0


def test_lease_protects_what_was_sent_and_what_was_there(uploader: Uploader, services: Services) -> None:
    uploader.put(pack_of([b"sent"]))
    assert run(services, lease_s=3600) == Collected()
    first = uploader.upload(ONE)["node"]["id"]
    expire_leases(services)
    uploader.lease = None
    assert uploader.missing(ONE.chunks) == []  # takes a lease
    delete_node(services, first)
    run(services)
    assert uploader.commit(ONE).status_code == 201
    assert uploader.missing([b"sent"]) == [b"sent"]


def test_object_that_plan_called_known_stays_as_long_as_a_lease(uploader: Uploader, services: Services) -> None:
    node_id = uploader.upload(ONE)["node"]["id"]
    check_objects(services.database, services.blobs)
    expire_leases(services)
    delete_node(services, node_id)
    run(services, lease_s=3600)
    sizes = {name: sum(map(len, chunks)) for name, chunks in ONE.objects.items()}
    assert uploader.unknown(sizes) == []
    run(services, lease_s=3600)
    assert uploader.commit(ONE).status_code == 201
    assert list(check(services.database, services.blobs, read=True)) == []


def test_condemned_pack_that_is_sent_again_is_acquitted(uploader: Uploader, services: Services) -> None:
    pack = pack_of(ONE.chunks)
    uploader.put(pack)
    expire_leases(services)
    assert run(services, grace_s=1000).condemned_packs == 1
    uploader.lease = None
    assert uploader.missing(ONE.chunks) == ONE.chunks
    assert uploader.put(pack).status_code == 200
    assert uploader.missing(ONE.chunks) == []
    run(services)
    assert uploader.commit(ONE).status_code == 201


def test_chunk_of_a_condemned_pack_moves_to_the_pack_it_is_sent_in(uploader: Uploader, services: Services) -> None:
    uploader.put(pack_of([*ONE.chunks, b"more"]))
    expire_leases(services)
    run(services, grace_s=1000)
    uploader.lease = None
    node_id = uploader.upload(ONE)["node"]["id"]
    assert run(services).deleted_packs == 1
    assert uploader.download(node_id)
    assert uploader.missing([b"more"]) == [b"more"]
    assert list(check(services.database, services.blobs, read=True)) == []


def test_pack_whose_chunks_all_lie_in_other_packs_is_collected(uploader: Uploader, services: Services) -> None:
    """As when two uploads at once send the same chunks: what came second is referred to by nothing."""
    node_id = uploader.upload(ONE)["node"]["id"]
    assert uploader.put(pack_of(ONE.chunks[::-1])).status_code == 201
    expire_leases(services)
    collected = run(services)
    assert (collected.condemned_packs, collected.deleted_packs) == (1, 1)
    assert uploader.download(node_id)
    assert list(check(services.database, services.blobs, read=True)) == []


def test_backup_in_progress_holds_bytes_and_their_rows(uploader: Uploader, services: Services) -> None:
    uploader.put(pack_of([b"x"]))
    expire_leases(services)
    with dump.hold_blobs(services.database):
        for _ in range(2):
            assert run(services).deleted_packs == 0
        assert blobs(services) == 1
        assert look_ahead(services.database, lease_s=LATER, grace_s=LATER) == Prospect()
    ahead = Prospect(deleted_packs=1, deleted_bytes=len(pack_of([b"x"])))
    assert look_ahead(services.database, lease_s=LATER, grace_s=LATER) == ahead
    assert run(services).deleted_packs == 1
    assert blobs(services) == 0


def test_deletion_of_bytes_that_was_cut_short_is_finished(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader.put(pack_of([b"x"]))
    expire_leases(services)

    def fail(key: str) -> None:
        raise OSError("cut short")

    run(services, grace_s=1000)
    with monkeypatch.context() as patch:
        patch.setattr(services.blobs, "delete", fail)
        with pytest.raises(OSError, match="cut short"):
            run(services)
    assert list(check(services.database, services.blobs)) == []
    run(services)
    assert blobs(services) == 0


@pytest.mark.parametrize("collects", [False, True], ids=["doomed", "deleted"])
@pytest.mark.parametrize("kind", ["manifests", "packs"])
def test_sweep_of_a_blob_that_an_upload_is_about_to_name_loses_nothing(
    uploader: Uploader, services: Services, monkeypatch: pytest.MonkeyPatch, kind: str, collects: bool
) -> None:
    swept: list[str] = []
    write = services.database.write

    def sweep_first(work: Any, *args: Any) -> Any:
        # The machine slept for a day between the blob and its row.
        keys = [blob.key for blob in services.blobs.list(kind) if blob.key not in swept]
        if keys and not swept:
            swept.extend(keys)
            if collects:
                monkeypatch.setattr(services.database, "write", write)
                assert sweep(services.database, services.blobs, older_than_us=-1_000_000) == len(keys)
            else:
                assert write(garbage.doom_orphans, keys) == len(keys)
        return write(work, *args)

    monkeypatch.setattr(services.database, "write", sweep_first)
    node_id = uploader.upload(ONE)["node"]["id"]
    assert swept
    for _ in range(2):
        run(services)
        assert services.blobs.size(swept[0]) is None
        assert uploader.download(node_id)
        assert list(check(services.database, services.blobs, read=True)) == []


def test_sweep_takes_old_blobs_without_a_row(uploader: Uploader, services: Services) -> None:
    uploader.upload(ONE)
    services.blobs.put_if_absent("packs/zz/orphan", b"x")
    assert sweep(services.database, services.blobs) == 0  # it may be of an upload in flight
    found = [problem.kind for problem in check(services.database, services.blobs)]
    assert found == []
    assert sweep(services.database, services.blobs, older_than_us=-1_000_000) == 1
    assert services.blobs.size("packs/zz/orphan") is None
    assert list(check(services.database, services.blobs, read=True)) == []


def test_what_nothing_uses_in_a_pack_that_stays_is_counted(uploader: Uploader, services: Services) -> None:
    gone, kept = noise(1, 500), noise(2, 900)
    node_id = uploader.upload(Content({"gone": [gone], "kept": [kept]}))["node"]["id"]
    assert uploader.commit(Content({"kept": [kept]}), artifact_id=node_id).status_code == 201
    assert idle(services.database) == Idle(0, 0)
    assert uploader.call("DELETE", f"/artifacts/{node_id}/versions/1").status_code == 204
    check_objects(services.database, services.blobs)
    expire_leases(services)
    services.database.write(lambda connection: connection.execute(sa.delete(tables.commits)))
    for _ in range(2):
        run(services)
    assert idle(services.database) == Idle(len(record(gone)) + RECORD_BYTES, 1)
    where = ["--data", str(services.settings.data_dir)]
    where += ["--database-url", services.settings.database_url] if services.settings.database_url else []
    result = CliRunner().invoke(main, [*where, "check"])
    assert result.output.splitlines() == ["0.0 MB that nothing uses lie in 1 packs with what is used", "0 problems"]
    delete_node(services, node_id)
    for _ in range(2):
        run(services)
    assert idle(services.database) == Idle(0, 0)


def test_commands_check_and_collect(uploader: Uploader, services: Services) -> None:
    uploader.put(pack_of([b"x"]))
    expire_leases(services)
    where = ["--data", str(services.settings.data_dir)]
    if services.settings.database_url is not None:
        where += ["--database-url", services.settings.database_url]

    def run_command(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, [*where, *arguments])
        return result.exit_code, result.output

    assert run_command("check", "--read") == (0, "0 problems\n")
    code, output = run_command("gc", "--json")
    assert (code, json.loads(output)["condemned_packs"], json.loads(output)["deleted_packs"]) == (0, 1, 0)
    code, output = run_command("gc", "--grace", "0")
    assert code == 0
    assert "deleted 1 packs" in output
    services.database.write(lambda connection: connection.execute(sa.delete(tables.lease_packs)))
    uploader.lease = None
    uploader.put(pack_of([b"y"]))
    services.blobs.delete(next(services.blobs.list()).key)
    code, output = run_command("check", "--json")
    assert (code, json.loads(output)["kind"]) == (1, "missing")


def test_retention_keeps_the_latest_pinned_and_named(uploader: Uploader, services: Services) -> None:
    node_id = uploader.upload(Content({}))["node"]["id"]
    uploader.send([b"x"])
    for number in range(5):
        uploader.commit(Content({f"{number}": [b"x"]}), artifact_id=node_id)
    uploader.call("PATCH", f"/artifacts/{node_id}/versions/2", json={"pinned": True})
    uploader.call("PUT", f"/artifacts/{node_id}/aliases/best", json={"version": 3})

    def versions() -> list[int]:
        listed = uploader.call("GET", f"/artifacts/{node_id}/versions").json()["versions"]
        return [version["version"] for version in listed]

    uploader.call("PUT", f"/artifacts/{node_id}/retention", json={"keep_last": 2, "ttl_s": None})
    assert run(services).versions == 2
    assert versions() == [6, 5, 3, 2]
    uploader.call("PUT", f"/artifacts/{node_id}/retention", json={"keep_last": None, "ttl_s": 0})
    assert run(services).versions == 1
    assert versions() == [6, 3, 2]


def test_retention_by_age_lets_go_what_is_older(uploader: Uploader, services: Services) -> None:
    node_id = uploader.upload(Content({}))["node"]["id"]
    uploader.send([b"x"])
    for number in range(3):
        uploader.commit(Content({f"{number}": [b"x"]}), artifact_id=node_id)
    old = sa.update(tables.versions).where(tables.versions.c.number != 3)
    aged = old.values(created_us=tables.versions.c.created_us - 7_200_000_000)
    services.database.write(lambda connection: connection.execute(aged))
    uploader.call("PUT", f"/artifacts/{node_id}/retention", json={"keep_last": None, "ttl_s": 10_000})
    assert run(services).versions == 0
    uploader.call("PUT", f"/artifacts/{node_id}/retention", json={"keep_last": None, "ttl_s": 3_600})
    assert run(services).versions == 2
    listed = uploader.call("GET", f"/artifacts/{node_id}/versions").json()["versions"]
    assert [version["version"] for version in listed] == [4, 3]  # the latest stays however old


def test_check_finds_each_kind_of_damage(uploader: Uploader, services: Services) -> None:
    uploader.upload(ONE)
    uploader.put(pack_of([b"other"]))
    keys = sorted(blob.key for blob in services.blobs.list("packs"))
    root = services.settings.data_dir / "blobs"
    (root / keys[0]).chmod(0o644)
    data = (root / keys[0]).read_bytes()
    (root / keys[0]).write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
    services.blobs.delete(keys[1])
    assert sorted(problem.kind for problem in check(services.database, services.blobs, read=True)) == [
        "damaged",
        "missing",
    ]
    (root / keys[0]).write_bytes(data[:-1])
    assert sorted(problem.kind for problem in check(services.database, services.blobs)) == ["missing", "size"]
    change = sa.update(tables.manifests).values(bad_count=1)
    services.database.write(lambda connection: connection.execute(change))
    assert "rows" in [problem.kind for problem in check(services.database, services.blobs)]

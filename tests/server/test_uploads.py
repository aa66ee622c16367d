"""Uploads and downloads through the API, step by step: honest, repeated, incomplete, and false."""

from __future__ import annotations

import json
import socket
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from harness import Account, Serving
from starlette.testclient import TestClient
from t9k.aistore.artifacts.commit import Wish, commit
from t9k.aistore.artifacts.gc import collect
from t9k.aistore.artifacts.verification import check_objects
from t9k.aistore.db.tables import artifacts as tables
from t9k.aistore.db.tables import tree
from t9k.aistore.errors import Refusal
from t9k.aistore.services import Services
from t9k.aistore.tree.trash import expire
from t9k.protocol import MAX_MANIFEST_ENTRIES
from uploads import Content, Uploader, digest, manifest_of, noise, pack_name, pack_of, signed, table_of

CONTENT = Content(
    {
        "weights.bin": [noise(1, 70_000), noise(2, 80_000), noise(3, 5)],
        "small.txt": [b"small"],
        "empty": [],
        "twice.bin": [noise(1, 70_000), noise(1, 70_000)],
    }
)

KEY = {"Idempotency-Key": "k"}


def resident_mib(serving: Serving) -> float:
    """Memory of the server now."""
    text = Path(f"/proc/{serving.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def objects_of(content: Content) -> dict[bytes, bytes]:
    return {name: b"".join(chunks) for name, chunks in content.objects.items()}


def sizes_of(content: Content) -> dict[bytes, int]:
    return {name: len(data) for name, data in objects_of(content).items()}


def count(services: Services, table: sa.Table) -> int:
    query = sa.select(sa.func.count()).select_from(table)
    return services.database.read(lambda connection: connection.execute(query).scalar_one())


def verify(services: Services) -> int:
    return check_objects(services.database, services.blobs)


def share(services: Services, node_id: str, account: Account, access: str = "view") -> None:
    row = {
        "node_id": node_id,
        "grantee_kind": "user",
        "grantee_id": account.caller.user_id,
        "access": access,
        "created_us": 1,
    }
    services.database.write(lambda connection: connection.execute(sa.insert(tree.shares).values(row)))


def test_upload_then_download_gives_the_same_bytes(uploader: Uploader) -> None:
    made = uploader.upload(CONTENT, metadata={"labels": ["x"], "description": "y"}, aliases=["best"])
    assert made["created"]
    assert made["version"] == 1
    assert made["node"]["path"] == "/ada/default/a"
    assert made["node"]["labels"] == ["x"]
    assert made["node"]["description"] == "y"
    assert uploader.download(made["node"]["id"]) == objects_of(CONTENT)
    artifact = uploader.call("GET", "/artifacts", params={"path": "/ada/default/a:best"}).json()
    assert artifact["aliases"] == ["latest", "best"]
    assert artifact["manifest_digest"] == digest(CONTENT.manifest).hex()
    assert artifact["size_bytes"] == sum(sizes_of(CONTENT).values())


def test_object_is_known_only_after_the_server_hashed_it_whole(uploader: Uploader, services: Services) -> None:
    made = uploader.upload(CONTENT)
    several = {name for name, chunks in CONTENT.objects.items() if len(chunks) > 1}
    assert set(uploader.unknown(sizes_of(CONTENT))) == several
    assert uploader.call("GET", f"/artifacts/{made['node']['id']}").json()["state"] == "checking"
    assert verify(services) == len(several)
    assert uploader.unknown(sizes_of(CONTENT)) == []
    assert uploader.call("GET", f"/artifacts/{made['node']['id']}").json()["state"] == "complete"
    assert uploader.missing(CONTENT.chunks) == []


def test_repeated_upload_sends_no_bytes_and_no_manifest(uploader: Uploader, services: Services) -> None:
    first = uploader.upload(CONTENT)
    verify(services)
    assert uploader.unknown(sizes_of(CONTENT)) == []
    again = uploader.commit(CONTENT, with_manifest=False)
    assert again.status_code == 201
    assert again.json()["node"]["id"] != first["node"]["id"]
    assert again.json()["node"]["path"] == "/ada/default/a2"
    assert uploader.sent_packs == 1
    assert count(services, tables.manifests) == 1
    assert uploader.download(again.json()["node"]["id"]) == objects_of(CONTENT)


def test_commit_without_a_manifest_that_is_not_known_whole_is_refused(uploader: Uploader, services: Services) -> None:
    for _ in range(2):
        refused = uploader.commit(CONTENT, with_manifest=False)
        assert refused.status_code == 409
        assert refused.json()["missing_manifest"] is True
        uploader.upload(CONTENT)
    assert sorted(blob.key for blob in services.blobs.list("manifests")) == sorted(
        services.database.read(lambda connection: connection.execute(sa.select(tables.manifests.c.blob_key)).scalars())
    )


def test_commit_names_what_is_missing_and_leaves_nothing(uploader: Uploader, services: Services) -> None:
    uploader.send(CONTENT.chunks[1:])
    refused = uploader.commit(CONTENT)
    assert refused.status_code == 409
    assert refused.json()["kind"] == "conflict"
    assert refused.json()["missing"] == [digest(CONTENT.chunks[0]).hex()]
    for table in (tables.versions, tables.manifests, tables.objects, tables.commits):
        assert count(services, table) == 0
    assert list(services.blobs.list("manifests")) == []
    uploader.send(CONTENT.chunks)
    assert uploader.commit(CONTENT).status_code == 201


def test_commit_names_at_most_a_thousand(uploader: Uploader) -> None:
    many = Content({f"{number}": [b"%d" % number] for number in range(1500)})
    assert len(uploader.commit(many).json()["missing"]) == 1000


def test_same_idempotency_key_answers_the_same_node(uploader: Uploader, services: Services) -> None:
    uploader.send(CONTENT.chunks)
    first, second = (uploader.commit(CONTENT, key="once") for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert count(services, tables.versions) == 1
    assert len(list(services.blobs.list("manifests"))) == 1
    another = uploader.commit(Content({}), key="once")
    assert another.status_code == 409
    assert "Idempotency-Key" in another.json()["detail"]


def test_idempotency_keys_of_two_users_do_not_meet(uploader: Uploader, other: Uploader) -> None:
    first, second = uploader.commit(Content({}), key="once"), other.commit(Content({}), key="once")
    assert first.json()["node"]["owner"] == "ada"
    assert second.json()["node"]["owner"] == "bob"


@pytest.mark.parametrize(
    ("strategy", "status", "path"),
    [("skip", 200, "/ada/default/a"), ("error", 409, None), ("new", 201, "/ada/default/b"), ("replace", 201, None)],
)
def test_taken_name_is_decided_in_the_commit(uploader: Uploader, strategy: str, status: int, path: str | None) -> None:
    first = uploader.upload(CONTENT)
    other = Content({"x": [b"small"]})
    place = {"conflict_strategy": strategy, "alternative_name": "b"}
    second = uploader.commit(other, placement=place)
    assert second.status_code == status
    if strategy == "skip":
        assert second.json() == first | {"created": False}
    elif strategy == "replace":
        assert second.json()["node"]["path"] == "/ada/default/a"
        assert second.json()["node"]["id"] != first["node"]["id"]
    elif path:
        assert second.json()["node"]["path"] == path


def test_same_pack_twice_is_success_and_stored_once(uploader: Uploader, services: Services) -> None:
    pack = pack_of(CONTENT.chunks)
    assert [uploader.put(pack).status_code for _ in range(3)] == [201, 200, 200]
    assert len(list(services.blobs.list())) == 1


def test_new_versions_of_one_artifact(uploader: Uploader) -> None:
    node_id = uploader.upload(CONTENT, aliases=["best"])["node"]["id"]
    changed = Content(CONTENT.files | {"small.txt": [b"other"]})
    uploader.send(changed.chunks)
    second = uploader.commit(changed, artifact_id=node_id, aliases=["best", "newer"]).json()
    assert (second["version"], second["created"]) == (2, True)
    again = uploader.commit(changed, artifact_id=node_id)
    assert again.status_code == 200
    assert (again.json()["version"], again.json()["created"]) == (2, False)
    assert uploader.download(node_id) == objects_of(changed)
    assert uploader.download(node_id, 1) == objects_of(CONTENT)
    listed = uploader.call("GET", f"/artifacts/{node_id}/versions").json()
    assert [(v["version"], v["aliases"]) for v in listed["versions"]] == [(2, ["latest", "best", "newer"]), (1, [])]
    path = "/ada/default/a"
    found = {
        suffix: uploader.call("GET", "/artifacts", params={"path": path + suffix}).json().get("version")
        for suffix in ("", ":latest", ":best", ":1", f"@{digest(CONTENT.manifest).hex()[:12]}", ":none", ":3")
    }
    assert list(found.values()) == [2, 2, 2, 1, 1, None, None]


def test_versions_come_in_pages(uploader: Uploader) -> None:
    node_id = uploader.upload(Content({}))["node"]["id"]
    uploader.send([b"x"])
    for number in range(4):
        uploader.commit(Content({f"{number}": [b"x"]}), artifact_id=node_id)
    seen, cursor = [], None
    while True:
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = uploader.call("GET", f"/artifacts/{node_id}/versions", params=params).json()
        seen += [version["version"] for version in page["versions"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == [5, 4, 3, 2, 1]


def test_aliases_move_and_go(uploader: Uploader) -> None:
    node_id = uploader.upload(Content({}))["node"]["id"]
    uploader.send([b"x"])
    uploader.commit(Content({"x": [b"x"]}), artifact_id=node_id)

    def put(alias: str, version: int) -> Any:
        return uploader.call("PUT", f"/artifacts/{node_id}/aliases/{alias}", json={"version": version})

    assert put("best", 1).json()["aliases"] == ["best"]
    assert put("best", 2).json()["aliases"] == ["latest", "best"]
    assert put("best", 3).status_code == 404
    assert put("latest", 1).status_code == 400
    assert put("12", 1).status_code == 400
    assert uploader.call("DELETE", f"/artifacts/{node_id}/aliases/best").status_code == 204
    assert uploader.call("DELETE", f"/artifacts/{node_id}/aliases/best").status_code == 404


def test_change_of_an_artifact_that_another_has_changed_is_412_and_changes_nothing(uploader: Uploader) -> None:
    node_id = uploader.upload(Content({}))["node"]["id"]
    uploader.send([b"x"])
    url = f"/artifacts/{node_id}"

    def etag() -> str:
        answer = uploader.call("GET", url)
        assert answer.headers["etag"] == f'"{answer.json()["node"]["version"]}"'
        return str(answer.headers["etag"])

    first = etag()
    assert uploader.commit(Content({"x": [b"x"]}), artifact_id=node_id).status_code == 201
    assert etag() != first
    changes: list[tuple[str, str, dict[str, object] | None]] = [
        ("PUT", f"{url}/aliases/best", {"version": 1}),
        ("PUT", f"{url}/aliases/best", {"version": 2}),
        ("DELETE", f"{url}/aliases/best", None),
        ("PATCH", f"{url}/versions/1", {"pinned": True}),
        ("PATCH", f"{url}/versions/1", {"pinned": False}),
        ("PUT", f"{url}/retention", {"keep_last": 5, "ttl_s": None}),
        ("DELETE", f"{url}/versions/1", None),
    ]
    for method, path, body in changes:
        seen = etag()
        before = [uploader.call("GET", f"{url}/{what}").json() for what in ("versions", "retention")]
        refused = uploader.call(method, path, json=body, headers={"If-Match": first})
        assert (refused.status_code, refused.json()["kind"]) == (412, "conflict")
        assert [uploader.call("GET", f"{url}/{what}").json() for what in ("versions", "retention")] == before
        done = uploader.call(method, path, json=body, headers={"If-Match": seen})
        assert done.status_code in (200, 204), done.text
        first = seen


# --- what is nobody's business ---


def test_presence_is_told_within_the_own_domain_only(uploader: Uploader, other: Uploader, services: Services) -> None:
    uploader.upload(CONTENT)
    verify(services)
    assert other.missing(CONTENT.chunks) == CONTENT.chunks
    assert set(other.unknown(sizes_of(CONTENT))) == set(CONTENT.objects)
    assert other.put(pack_of(CONTENT.chunks)).status_code == 201


def test_administrator_lets_users_share_chunks_and_nothing_else(
    api: TestClient, services: Services, ada: Account, bob: Account, root: Account
) -> None:
    """What is stored in the common domain is known to both; a node of the other is not seen for that."""
    a, b = Uploader(api, ada), Uploader(api, bob)

    def put_into(domain: str, *accounts: Account, by: Account = root) -> list[int]:
        body = {"shares_chunks_in": domain}
        paths = [f"/api/v1/users/{account.name}" for account in accounts]
        return [api.patch(path, json=body, headers=by.headers).status_code for path in paths]

    assert put_into("team", ada, by=ada) == [403]
    assert put_into(ada.caller.user_id, bob) == [200]  # a name like an id is no way into that user's own domain
    mine = a.upload(CONTENT)["node"]["id"]
    assert b.missing(CONTENT.chunks) == CONTENT.chunks
    assert put_into("team", ada, bob) == [200, 200]
    assert api.get("/api/v1/users/ada", headers=root.headers).json()["shares_chunks_in"] == "team"
    a.lease = b.lease = None
    assert a.missing(CONTENT.chunks) == CONTENT.chunks  # what ada had stored before is in her own
    a.upload(CONTENT)
    verify(services)
    assert b.missing(CONTENT.chunks) == []
    sent = b.sent_packs
    made = b.upload(CONTENT)["node"]["id"]
    assert b.sent_packs == sent
    assert b.download(made) == a.download(mine)
    assert b.call("GET", f"/nodes/{mine}").status_code == 404
    assert put_into("", bob) == [200]
    b.lease = None
    assert b.missing(CONTENT.chunks) == CONTENT.chunks
    assert b.download(made)
    actions = [row["action"] for row in api.get("/api/v1/audit", headers=root.headers).json()["rows"]]
    assert actions.count("user.domain") == 4


def test_manifest_of_foreign_chunks_is_refused(uploader: Uploader, other: Uploader, services: Services) -> None:
    uploader.upload(CONTENT)
    verify(services)
    refused = other.commit(CONTENT)
    assert refused.status_code == 409
    assert set(refused.json()["missing"]) == {digest(chunk).hex() for chunk in CONTENT.chunks}
    assert other.commit(CONTENT, with_manifest=False).json()["missing_manifest"] is True


def test_lease_of_another_user_is_none(uploader: Uploader, other: Uploader) -> None:
    uploader.missing([])
    other.lease = uploader.lease
    assert other.put(pack_of([b"x"])).status_code == 409


def test_viewer_downloads_a_shared_artifact_and_nothing_beside_it(
    uploader: Uploader, other: Uploader, bob: Account, services: Services
) -> None:
    secret = noise("secret", 5000)
    shared = Content({"shared": [noise(1, 5000)], "more": [noise(2, 5000)]})
    pack = pack_of([noise(1, 5000), secret, noise(2, 5000)])
    assert uploader.put(pack).status_code == 201
    assert uploader.commit(Content({"secret": [secret]})).status_code == 201
    node_id = uploader.commit(shared).json()["node"]["id"]
    assert other.call("GET", f"/artifacts/{node_id}").status_code == 404
    share(services, node_id, bob)
    assert other.download(node_id) == objects_of(shared)
    for names in ([secret], [noise(1, 5000), secret]):
        body = b"".join(map(digest, names))
        assert other.call("POST", f"/artifacts/{node_id}/locate", content=body).status_code == 404
        assert other.call("POST", f"/artifacts/{node_id}/objects", content=body).status_code == 404
    params = {"artifact": node_id}
    url = f"/packs/{pack_name(pack).hex()}"
    got = other.call("GET", url, params=params).content
    head, record = 12, 41 + 5000
    assert got[head : head + record] == pack[head : head + record]
    assert got[head + record : head + 2 * record] == bytes(record)
    assert got[head + 2 * record : head + 3 * record] == pack[head + 2 * record : head + 3 * record]
    assert not any(got[head + 3 * record :])
    within = {"Range": f"bytes={head + record + 9}-{head + 2 * record - 9}"}
    assert other.call("GET", url, params=params, headers=within).status_code == 404


def test_shortcut_to_an_artifact_is_followed_with_the_callers_rights(uploader: Uploader, other: Uploader) -> None:
    node = uploader.upload(CONTENT)["node"]
    uploader.call("PUT", f"/nodes/{node['parent_id']}/shares/user/bob", json={"access": "view"})
    made = other.call("POST", "/shortcuts", json={"path": "/bob/default/link", "target_id": node["id"]})
    assert made.status_code == 201
    for suffix in ("", ":latest", ":1"):
        found = other.call("GET", "/artifacts", params={"path": f"/bob/default/link{suffix}"})
        assert found.json()["node"]["id"] == node["id"]
    uploader.call("DELETE", f"/nodes/{node['parent_id']}/shares/user/bob")
    assert other.call("GET", "/artifacts", params={"path": "/bob/default/link"}).status_code == 404


def test_copy_in_another_users_tree_outlives_the_original(
    uploader: Uploader, other: Uploader, bob: Account, services: Services
) -> None:

    original = uploader.upload(CONTENT, aliases=["best"])["node"]["id"]
    share(services, original, bob)
    folder = other.call("GET", "/nodes", params={"path": "/bob/default"}).json()["id"]
    copied = other.call("POST", f"/nodes/{original}/copy", json={"parent_id": folder})
    assert copied.status_code == 201, copied.text
    uploader.call("DELETE", f"/nodes/{original}")
    assert uploader.call("DELETE", f"/trash/{original}").status_code == 204
    expire(services.database, 0)
    services.database.write(lambda connection: connection.execute(sa.update(tables.leases).values(expires_us=1)))
    for _ in range(2):
        collect(services.database, services.blobs, lease_s=-10, grace_s=-10)
    assert uploader.call("GET", f"/nodes/{original}").status_code == 404
    assert count(services, tables.versions) == 1
    assert other.download(copied.json()["id"]) == objects_of(CONTENT)
    assert other.call("GET", "/artifacts", params={"path": "/bob/default/a:best"}).json()["version"] == 1
    assert set(other.missing(CONTENT.chunks)) == set(CONTENT.chunks)  # its bytes are there, its presence is not told


# --- lies ---


def test_false_chunk_table_is_found_out_and_stands_in_nobodys_way(uploader: Uploader, services: Services) -> None:
    honest = Content({"x": [noise(1, 900), noise(2, 900)]})
    (name,) = honest.objects
    lie = Content(honest.files, {name: table_of([noise(2, 900), noise(1, 900)])})
    uploader.send(honest.chunks)
    first = uploader.commit(lie).json()["node"]["id"]
    assert uploader.unknown(sizes_of(honest)) == [name]
    second = uploader.commit(honest).json()["node"]["id"]
    verify(services)
    bad = uploader.call("GET", f"/artifacts/{first}").json()
    assert (bad["state"], bad["bad_objects"]) == ("bad", [name.hex()])
    good = uploader.call("GET", f"/artifacts/{second}").json()
    assert (good["state"], good["bad_objects"]) == ("complete", [])
    assert uploader.download(second) == objects_of(honest)
    assert uploader.unknown(sizes_of(honest)) == []


def test_lie_that_was_found_out_does_not_make_an_object_known(uploader: Uploader, services: Services) -> None:
    honest = Content({"x": [noise(1, 900), noise(2, 900)]})
    (name,) = honest.objects
    lie = Content(honest.files, {name: table_of([noise(2, 900), noise(1, 900)])})
    uploader.send(honest.chunks)
    node_id = uploader.commit(lie).json()["node"]["id"]
    verify(services)
    assert uploader.unknown(sizes_of(honest)) == [name]
    repeated = uploader.commit(lie)
    assert repeated.status_code == 422
    assert name.hex() in repeated.json()["detail"]
    assert uploader.commit(lie, with_manifest=False).json()["missing_manifest"] is True
    healed = uploader.commit(honest, artifact_id=node_id).json()
    assert (healed["version"], healed["created"]) == (2, True)
    verify(services)
    assert uploader.call("GET", f"/artifacts/{node_id}").json()["state"] == "complete"


def _flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _commit_body(json: bytes, *parts: bytes) -> bytes:
    return struct.pack("<I", len(json)) + json + b"".join(parts)


BIG = struct.pack("<Q", 2**63)
M = manifest_of({"x": (1, digest(b"x"))})
WISH = b'{"manifest_digest": "%s", "placement": {"folder": "/ada/default", "name": "a"}}' % digest(M).hex().encode()
SIZED = struct.pack("<Q", len(M)) + M


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xff\xff\xff",
        _commit_body(b"{}"),
        _commit_body(b"[]", bytes(8)),
        _commit_body(WISH),
        _commit_body(WISH, BIG),
        _commit_body(WISH, struct.pack("<Q", len(M) + 1), M),
        _commit_body(WISH, struct.pack("<Q", len(M)), _flipped(M, 30)),
        _commit_body(WISH, SIZED, b"rest"),
        _commit_body(WISH, SIZED, digest(b"x"), BIG),
        _commit_body(WISH, SIZED, digest(b"y"), struct.pack("<Q", 0)),
        _commit_body(WISH, SIZED, digest(b"x"), struct.pack("<Q", 3), b"abc"),
        _commit_body(WISH, SIZED, digest(b"x"), struct.pack("<Q", len(table_of([b"xy"]))), table_of([b"xy"])),
        _commit_body(WISH, bytes(8), b"rest"),
        _commit_body(WISH[:-1] + b', "more": 1}', SIZED),
        _commit_body(WISH[:-1] + b', "metadata": {"labels": [3]}}', SIZED),
        _commit_body(WISH[:-1] + b', "metadata": {"labels": ["a\\u0000"]}}', SIZED),
        _commit_body(WISH[:-1] + b', "metadata": {"labels": [""]}}', SIZED),
        _commit_body(WISH[:-1] + b', "metadata": {"description": "\\u0000"}}', SIZED),
        _commit_body(WISH[:-1] + b', "metadata": {"x": NaN}}', SIZED),
        _commit_body(WISH[:-1] + b', "metadata": {"x": [1e999]}}', SIZED),
        _commit_body(WISH[:-1] + b', "metadata": {"x": %s}}' % (b"[" * 100 + b"]" * 100), SIZED),
        _commit_body(WISH[:-1] + b', "metadata": {"x": "\\ud800"}}', SIZED),
        _commit_body(WISH[:-1] + b', "aliases": ["latest"]}', SIZED),
    ],
)
def test_malformed_commit_is_refused(uploader: Uploader, services: Services, body: bytes) -> None:
    uploader.send([b"x"])
    response = uploader.call("POST", "/artifacts/commit", content=body, headers={"Idempotency-Key": "k"})
    assert response.status_code in (400, 422), response.text
    assert response.json()["kind"] in ("invalid_input", "integrity")
    assert count(services, tables.versions) == 0
    assert list(services.blobs.list("manifests")) == []


def test_more_chunk_tables_than_objects_are_refused_before_they_are_held(services: Services, ada: Account) -> None:
    many = (digest(b"x") + bytes(8)) * 100_000
    wish = Wish(placement=None, artifact_id="a", manifest_digest=digest(M), key="k")
    tracemalloc.start()
    try:
        with pytest.raises(Refusal, match="more chunk tables"):
            commit(services.database, services.blobs, ada.caller, wish, memoryview(SIZED + many), 60)
        assert tracemalloc.get_traced_memory()[1] < 2 * len(many)  # the body is one
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "manifest",
    [
        manifest_of({"../x": (1, digest(b"x"))}),
        manifest_of({"/x": (1, digest(b"x"))}),
        manifest_of({"a": (1, digest(b"x")), "A": (1, digest(b"x"))}),
        manifest_of({"a": (1, digest(b"x")), "a/b": (1, digest(b"x"))}),
        manifest_of({"a": (1, digest(b"x")), "b": (2, digest(b"x"))}),
        manifest_of({"a": (2**63, digest(b"x"))}),
        manifest_of({"a": (2**62, digest(b"x")), "b": (2**62, digest(b"y"))}),
        signed(b"EMMANIF\0" + struct.pack("<IQ", 1, 10_000_001)),
        signed(b"EMMANIF\0" + struct.pack("<IQ", 1, 2**63)),
        signed(b"EMMANIF\0" + struct.pack("<IQ", 2, 0)),
    ],
)
def test_hostile_manifest_is_refused(uploader: Uploader, services: Services, manifest: bytes) -> None:
    uploader.send([b"x"])
    wish = WISH.replace(digest(M).hex().encode(), digest(manifest).hex().encode())
    body = _commit_body(wish, struct.pack("<Q", len(manifest)), manifest)
    response = uploader.call("POST", "/artifacts/commit", content=body, headers={"Idempotency-Key": "k"})
    assert response.status_code in (400, 409, 413, 422), response.text
    assert count(services, tables.versions) == 0


@pytest.mark.parametrize(("path", "length"), [("plan", 39), ("missing", 31), ("plan", 41), ("missing", 33)])
def test_bodies_of_other_lengths_are_refused(uploader: Uploader, path: str, length: int) -> None:
    assert uploader.call("POST", f"/artifacts/{path}", content=bytes(length)).status_code == 400


def test_plan_does_not_call_an_object_of_another_size_known(uploader: Uploader) -> None:
    uploader.upload(Content({"x": [b"small"]}))
    assert uploader.unknown({digest(b"small"): 5}) == []
    assert uploader.unknown({digest(b"small"): 6}) == [digest(b"small")]


def _start_of_commit(entries: int, body_bytes: int) -> bytes:
    """A commit whose manifest says that it has so many entries, and has a few."""
    wish = json.dumps({"manifest_digest": "0" * 64, "placement": {"folder": "/ada", "name": "a"}}).encode()
    head = b"EMMANIF\0" + struct.pack("<IQ", 1, entries)
    size = body_bytes - 4 - len(wish) - 8
    return struct.pack("<I", len(wish)) + wish + struct.pack("<Q", size) + head


def test_commit_of_too_many_entries_is_refused_however_short(uploader: Uploader) -> None:
    start = _start_of_commit(MAX_MANIFEST_ENTRIES + 1, 5000)
    response = uploader.call("POST", "/artifacts/commit", content=start.ljust(5000, b"x"), headers=KEY)
    assert (response.status_code, response.json()["kind"]) == (413, "invalid_input")
    assert "1000001 entries" in response.json()["detail"]
    assert "archives" in response.json()["hint"]
    allowed = _start_of_commit(MAX_MANIFEST_ENTRIES, 5000).ljust(5000, b"x")
    response = uploader.call("POST", "/artifacts/commit", content=allowed, headers=KEY)
    assert response.json()["kind"] == "integrity"  # it was looked at, and is no manifest


def test_commit_of_ten_million_entries_is_refused_before_it_has_come(serving: Serving) -> None:
    size = 600 << 20
    before = resident_mib(serving)
    with socket.create_connection((urlsplit(serving.url).hostname, urlsplit(serving.url).port), timeout=60) as client:
        head = f"POST /api/v1/artifacts/commit HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {serving.api_key}\r\n"
        client.sendall(f"{head}Idempotency-Key: k\r\nContent-Length: {size}\r\n\r\n".encode())
        client.sendall(_start_of_commit(10_000_000, size))
        sent, refusal = 0, b""
        client.settimeout(0)
        while not refusal and sent < 64 << 20:
            with suppress(BlockingIOError):
                sent += client.send(bytes(1 << 16))
            with suppress(BlockingIOError):
                refusal = client.recv(65536)
        client.settimeout(60)
        while b"\r\n\r\n{" not in refusal and (part := client.recv(65536)):  # its body may come behind its head
            refusal += part
    assert refusal.startswith(b"HTTP/1.1 413 "), refusal
    assert b"10000000 entries" in refusal
    assert resident_mib(serving) - before < 64


def test_number_of_a_deleted_version_is_not_used_again(uploader: Uploader) -> None:
    node_id = uploader.upload(Content({}))["node"]["id"]
    uploader.send([b"x"])

    def next_number(name: str) -> int:
        answer = uploader.commit(Content({name: [b"x"]}), artifact_id=node_id)
        return int(answer.json()["version"])

    assert [next_number("a"), next_number("b"), next_number("c")] == [2, 3, 4]
    for number in (4, 2):
        assert uploader.call("DELETE", f"/artifacts/{node_id}/versions/{number}").status_code == 204
    assert [next_number("d"), next_number("e")] == [5, 6]
    assert uploader.call("GET", f"/artifacts/{node_id}", params={"version": "4"}).status_code == 404

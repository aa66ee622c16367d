"""The families of attacks that were published against experiment servers, each tried against this one."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from urllib.parse import quote

import pytest
from harness import Account, make_account, run_server
from starlette.testclient import TestClient
from t9k.aistore.accounts import keys
from t9k.aistore.db import Database
from t9k.aistore.services import Services
from uploads import Content, Uploader, digest, manifest_of, signed

API = "/api/v1"

TRAVERSALS = [
    "../../etc/passwd",
    "..",
    "a/../../b",
    "/etc/passwd",
    "a//b",
    "./a",
    "a/.",
    ".artifact/manifest-1",
    "a\0b",
    "a/" * 3000 + "b",
    "x" * 256,
]


@pytest.mark.parametrize("path", TRAVERSALS, ids=lambda path: repr(path[:20]))
def test_path_traversal_by_the_path_of_an_artifacts_file(api: TestClient, ada: Account, path: str) -> None:
    """A manifest with such a path is refused whole, whatever its checksum says."""
    content = Content({"a": [b"x"]})
    uploader = Uploader(api, ada)
    uploader.send(content.chunks)
    manifest = manifest_of({path: (1, digest(b"x"))})

    class Lying(Content):
        @property
        def manifest(self) -> bytes:
            return manifest

    response = uploader.commit(Lying(content.files))
    assert response.status_code in (400, 422), response.text
    listed = api.get(f"{API}/nodes", params={"path": "/ada/default/a"}, headers=ada.headers)
    assert listed.status_code == 404


@pytest.mark.parametrize(
    "path",
    ["/ada/../bob", "/ada/./x", "/ada//x", "/ada/x\0", "/ada/\u202ex", "/..", "//", "", "ada/x", "/ada/a\\../b\n"],
    ids=repr,
)
def test_path_traversal_by_the_path_of_a_node(api: TestClient, ada: Account, bob: Account, path: str) -> None:
    made = api.post(f"{API}/folders", json={"path": path, "parents": True}, headers=ada.headers)
    read = api.get(f"{API}/nodes", params={"path": path}, headers=ada.headers)
    assert made.status_code in (400, 404)
    assert read.status_code in (400, 404)


@pytest.mark.parametrize(
    "url",
    [
        "/nodes/..%2f..%2fetc%2fpasswd",
        "/nodes/%2e%2e/%2e%2e/etc/passwd",
        "/packs/..%2f..%2faistore.sqlite3",
        "/packs/" + "%2e%2e%2f" * 8 + "etc%2fpasswd",
        "/artifacts/..%5c..%5cx/manifest",
        "/runs/%00/log",
        "/../../healthz/../etc/passwd",
    ],
)
def test_path_traversal_by_encoded_slashes(api: TestClient, ada: Account, url: str) -> None:
    response = api.get(f"{API}{url}", headers=ada.headers)
    assert response.status_code in (400, 404)
    assert b"root:" not in response.content


@pytest.mark.parametrize("name", ["a#/../../b", "a?path=/bob", "a%2f..%2fb", "a;b", "a&limit=1", "a+b c"])
def test_fragments_and_escapes_in_names_are_plain_characters(api: TestClient, ada: Account, name: str) -> None:
    """One of mlflow's families: a path that is parsed twice is another path the second time."""
    path = f"/ada/default/{name}" if "/" not in name else f"/ada/default/{name.replace('/', '_')}"
    made = api.post(f"{API}/folders", json={"path": path}, headers=ada.headers)
    assert made.status_code == 201
    assert made.json()["path"] == path
    found = api.get(f"{API}/nodes?path={quote(path, safe='')}", headers=ada.headers)
    assert found.json()["id"] == made.json()["id"]


def reference(path: str, uri: str) -> bytes:
    """A manifest with one reference."""
    entry = b"\3" + struct.pack("<H", len(path)) + path.encode() + b"\0" + struct.pack("<H", len(uri)) + uri.encode()
    return signed(b"EMMANIF\0" + struct.pack("<IQ", 1, 1) + entry)


@pytest.mark.parametrize("scheme", ["http", "file", "gopher"])
def test_ssrf_the_server_fetches_no_reference(api: TestClient, services: Services, ada: Account, scheme: str) -> None:
    services.background.start()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        manifest = reference("ref", f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/latest/meta-data")

        class Referring(Content):
            @property
            def manifest(self) -> bytes:
                return manifest

        uploader = Uploader(api, ada)
        response = uploader.commit(Referring({}))
        assert response.status_code == 201, response.text
        node_id = response.json()["node"]["id"]
        assert uploader.call("GET", f"/artifacts/{node_id}/manifest").content == manifest
        with pytest.raises(TimeoutError):
            listener.accept()


INJECTIONS = ["' OR '1'='1", "x'; DROP TABLE nodes; --", '" OR 1=1 --', "%", "_", "\\", "x') UNION SELECT hash --"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_query_injection(api: TestClient, database: Database, ada: Account, bob: Account, text: str) -> None:
    mine = api.post(f"{API}/folders", json={"path": f"/ada/default/{text}"}, headers=ada.headers)
    assert mine.status_code == 201
    folder_id = mine.json()["parent_id"]
    for parameters in ({"filter": text}, {"sort": text}, {"cursor": text}, {"filter": f'name = "{text}"'}):
        response = api.get(f"{API}/nodes/{folder_id}/children", params=parameters, headers=ada.headers)
        assert response.status_code in (200, 400), response.text
        if response.status_code == 200:
            assert {node["owner"] for node in response.json()["nodes"]} <= {"ada"}
    assert api.get(f"{API}/nodes", params={"path": f"/ada/default/{text}"}, headers=bob.headers).status_code == 404
    assert api.get(f"{API}/session", headers={"Authorization": f"Bearer {text}"}).status_code == 401
    assert api.get(f"{API}/session", headers=ada.headers).status_code == 200


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "javascript:alert(1)"])
def test_stored_xss_is_data_and_nothing_a_browser_would_run(api: TestClient, ada: Account, text: str) -> None:
    name = text.replace("/", "|")
    made = api.post(f"{API}/folders", json={"path": f"/ada/default/{name}"}, headers=ada.headers)
    changed = api.patch(f"{API}/nodes/{made.json()['id']}", json={"description": text}, headers=ada.headers)
    run = {"client_id": "x", "placement": {"folder": "/ada/default", "name": "run"}, "description": text}
    run_id = api.post(f"{API}/runs", json=run, headers=ada.headers).json()["node"]["id"]
    api.put(f"{API}/runs/{run_id}/log", params={"offset": 0}, content=text.encode(), headers=ada.headers)
    log = api.get(f"{API}/runs/{run_id}/log", headers=ada.headers)
    missing = api.get(f"{API}/nodes", params={"path": f"/ada/{name}-"}, headers=ada.headers)
    for response in (made, changed, log, missing):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["content-security-policy"].startswith("default-src 'none'")
        assert "html" not in response.headers["content-type"]


def test_session_fixation_there_are_no_sessions_to_fix(api: TestClient, ada: Account) -> None:
    """Nothing but the header identifies a caller: no cookie is set, and none, nor a parameter, is believed."""
    response = api.get(f"{API}/session", headers=ada.headers)
    assert "set-cookie" not in response.headers
    for arguments in (
        {"headers": {"Cookie": f"session={ada.key}; Authorization={ada.key}"}},
        {"params": {"api_key": ada.key, "access_token": ada.key}},
        {"headers": {"X-API-Key": ada.key, "Proxy-Authorization": f"Bearer {ada.key}"}},
    ):
        assert api.request("GET", f"{API}/session", **arguments).status_code == 401  # type: ignore[arg-type]


def test_other_origins_are_not_let_in(api: TestClient, ada: Account) -> None:
    headers = {**ada.headers, "Origin": "https://evil.example"}
    response = api.get(f"{API}/session", headers=headers)
    preflight = api.options(f"{API}/session", headers={**headers, "Access-Control-Request-Method": "GET"})
    for answer in (response, preflight):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "path", ["/session", "/nodes?path=/ada/none", "/none", "/trash?limit=0", "^/metrics", "^/none"]
)
def test_every_answer_has_security_headers_and_none_is_compressed(api: TestClient, ada: Account, path: str) -> None:
    """Compressing what has secrets beside what others choose would tell the secrets by its length."""
    headers = {**ada.headers, "Accept-Encoding": "gzip, br, zstd"}
    answer = api.get(path.removeprefix("^") if path.startswith("^") else f"{API}{path}", headers=headers)
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["cache-control"] == "no-store"
    assert "content-encoding" not in answer.headers
    assert "server" not in answer.headers


def test_default_credentials_there_are_none(tmp_path: Path) -> None:
    """Two new servers have two keys, and neither takes what people try first."""
    import requests

    seen = []
    for number in range(2):
        with run_server(tmp_path / str(number)) as server:
            seen.append(server.api_key)
            url = f"{server.url}{API}/session"
            for pair in (("admin", "admin"), ("admin", ""), ("admin", "password"), ("root", "root")):
                assert requests.get(url, auth=pair).status_code == 401
            for key in ("admin", "em_pat_", "em_pat_" + "0" * 33, keys.make_key().text):
                assert requests.get(url, headers={"Authorization": f"Bearer {key}"}).status_code == 401
    assert seen[0] != seen[1]


def test_key_of_a_disabled_user_ends_at_once(api: TestClient, database: Database) -> None:
    import sqlalchemy as sa
    from t9k.aistore.db.tables.accounts import users

    eve = make_account(database, "eve")
    assert api.get(f"{API}/session", headers=eve.headers).status_code == 200
    database.write(lambda c: c.execute(sa.update(users).where(users.c.name == "eve").values(disabled_us=1)))
    assert api.get(f"{API}/session", headers=eve.headers).status_code == 401

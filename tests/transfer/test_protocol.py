"""`docs/protocol.md` and `docs/formats.md` are enough for a client: one written from them meets this package's."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from harness import Serving
from plain_client import PlainClient
from safetensors.numpy import save_file
from t9k import em, protocol
from trees import contents

FILES = {
    "notes.txt": b"text " * 1000,
    "empty": b"",
    "d/large.bin": os.urandom(1_000_000),
    "d/same.bin": b"twice" * 80_000,
}


@pytest.fixture
def plain(server: Serving) -> PlainClient:
    return PlainClient(server.url, server.api_key)


def test_page_has_every_operation_kind_and_limit() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "protocol.md").read_text()
    for path, item in json.loads((docs / "openapi.json").read_text())["paths"].items():
        form = re.sub(r"\\{[^}]*\\}", r"\\{[^}]*\\}", re.escape(path.removeprefix(protocol.API_PREFIX)))
        assert re.search(form + "(?![/a-z])", page), (path, list(item))
    for kind, status in protocol.KINDS.items():
        assert re.search(rf"\| `{kind}` \| .*\b{status}\b", page), kind
    numbers = [value for name, value in vars(protocol).items() if name.startswith("MAX_")]
    for number in {n for n in numbers if n < 1 << 20 or n % 1000 == 0} | {protocol.MAX_JSON_BYTES}:
        assert f"{number:,}" in page, number


def place(name: str) -> dict[str, object]:
    return {"folder": "/admin/plain", "make_folder": True, "name": name, "conflict_strategy": "replace"}


def test_what_it_uploads_is_loaded(plain: PlainClient, server: Serving, home: Path) -> None:
    made = plain.upload(FILES, place("up"), "a key")
    assert made == plain.upload(FILES, place("up"), "a key") | {"created": made["created"]}  # its answer was lost
    em.login(server.url, server.api_key)
    loaded = em.load_artifact("plain/up")
    assert loaded.labels == ["plain"]
    assert {path: entry and entry[0] for path, entry in contents(loaded.local).items()} == FILES
    assert plain.download("/admin/plain/up") == FILES


def test_upload_of_what_the_server_has_is_two_requests(plain: PlainClient) -> None:
    plain.upload(FILES, place("first"), "first")
    while plain.call("GET", "/artifacts", params={"path": "/admin/plain/first"})["state"] == "checking":
        time.sleep(0.05)
    plain.requests = 0
    assert plain.upload(FILES, place("second"), "second")["created"]
    assert plain.requests == 2
    assert plain.download("/admin/plain/second") == FILES


def test_what_this_package_uploads_is_downloaded(plain: PlainClient, server: Serving, home: Path) -> None:
    """Packed by zstd, and by planes of which some are turned."""
    generator = np.random.default_rng(1)
    tensors = {f"t{size}": generator.normal(size=60_000).astype(f"f{size}") for size in (2, 4, 8)}
    Path("tree").mkdir()
    save_file(tensors, "tree/model.safetensors")
    Path("tree/text").write_bytes(b"all the same " * 50_000)
    Path("tree/noise").write_bytes(os.urandom(700_001))
    artifact = em.create_artifact("down")
    artifact.add_dir("tree", "tree")
    em.login(server.url, server.api_key)
    artifact.upload(folder="plain", make_folder=True)
    files = plain.download("/admin/plain/down")
    assert files == {f"tree/{path.name}": path.read_bytes() for path in Path("tree").iterdir()}


def test_accounts_folders_and_shares(plain: PlainClient) -> None:
    plain.call("POST", "/users", 201, json={"name": "eve", "role": "user"})
    made = plain.call("POST", "/users/eve/keys", 201, json={"name": "k", "scopes": ["read", "write"]})
    eve, nobody = PlainClient(plain.url, made["api_key"]), PlainClient(plain.url, None)
    assert eve.call("GET", "/session")["user"] == "eve"
    folder = plain.call("POST", "/folders", (200, 201), json={"path": "/admin/plain/shared", "parents": True})
    problem = eve.call("GET", f"/nodes/{folder['id']}", 404)
    assert problem["kind"] == "not_found"
    plain.call("PUT", f"/nodes/{folder['id']}/shares/user/eve", json={"access": "view"})
    assert [node["id"] for node in eve.call("GET", "/shared")["nodes"]] == [folder["id"]]
    assert eve.call("PATCH", f"/nodes/{folder['id']}", 403, json={"name": "mine"})["kind"] == "auth"
    old = {"If-Match": f'"{folder["version"]}"'}
    change = {"description": "seen by eve"}
    plain.call("PATCH", f"/nodes/{folder['id']}", json=change, headers=old)
    plain.call("PATCH", f"/nodes/{folder['id']}", 412, json=change, headers=old)
    page = plain.call("GET", f"/nodes/{folder['parent_id']}/children", params={"filter": 'name = "shared"', "limit": 1})
    assert [node["description"] for node in page["nodes"]] == ["seen by eve"]
    nobody.call("GET", "/nodes", 404, params={"path": "/admin/plain/shared"})
    plain.call("DELETE", f"/users/eve/keys/{made['prefix']}", 204)
    assert eve.call("GET", "/session", 401)["kind"] == "auth"
    assert "version 1" in plain.call("GET", "/session", 400, headers={"EM-Protocol": "2"})["detail"]


def test_run_with_metrics_and_log(plain: PlainClient, server: Serving, home: Path) -> None:
    body = {"client_id": "plain-run", "placement": place("run"), "state": "Running", "hparams": {"lr": 0.1}}
    made = plain.call("POST", "/runs", 201, json=body)
    assert plain.call("POST", "/runs", 200, json=body)["node"]["id"] == made["node"]["id"]
    run_id = made["node"]["id"]
    plain.send_points(run_id, [0, 1, 2], {"loss": [3.0, 2.0, 1.0]})
    assert plain.call("PUT", f"/runs/{run_id}/log?offset=0", data=b"epoch 1\n")["log_bytes"] == 8
    assert plain.call("POST", f"/runs/{run_id}/heartbeat")["state"] == "Running"
    plain.call("PATCH", f"/runs/{run_id}", json={"state": "Complete"})
    em.login(server.url, server.api_key)
    run = em.load_run("plain/run")
    assert run.hparams == {"lr": 0.1}
    points = [(point["at"]["step"], point["metrics"]) for point in run.metrics["train"]]
    assert points == [(step, {"loss": 3.0 - step}) for step in range(3)]
    assert Path(run.local, "stdout.log").read_bytes() == b"epoch 1\n"

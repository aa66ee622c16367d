"""Routes of nodes: get, make folders, list."""

from __future__ import annotations

import pytest
from harness import Account
from starlette.testclient import TestClient
from t9k.aistore.db import Database
from t9k.aistore.tree.folders import make_folder


def make(api: TestClient, account: Account, path: str, **more: object) -> dict[str, object]:
    response = api.post("/api/v1/folders", json={"path": path, **more}, headers=account.headers)
    assert response.status_code == 201, response.text
    document: dict[str, object] = response.json()
    return document


def test_folder_made_is_got_by_path_and_id(api: TestClient, ada: Account) -> None:
    made = make(api, ada, "/ada/x/y", parents=True)
    assert (made["path"], made["kind"], made["access"], made["owner"]) == ("/ada/x/y", "Folder", "own", "ada")
    by_path = api.get("/api/v1/nodes", params={"path": "/ada/x/y"}, headers=ada.headers)
    by_id = api.get(f"/api/v1/nodes/{made['id']}", headers=ada.headers)
    assert by_path.json() == by_id.json() == made
    assert by_id.headers["etag"] == '"1"'


def test_folder_that_is_there_is_a_conflict_or_with_parents_the_answer(api: TestClient, ada: Account) -> None:
    made = make(api, ada, "/ada/x")
    again = {"path": "/ada/x"}
    assert api.post("/api/v1/folders", json=again, headers=ada.headers).status_code == 409
    response = api.post("/api/v1/folders", json={**again, "parents": True}, headers=ada.headers)
    assert (response.status_code, response.json()) == (200, made)


def test_node_of_another_user_is_as_if_not_there(api: TestClient, ada: Account, bob: Account) -> None:
    made = make(api, ada, "/ada/x")
    for headers in (bob.headers, {}):
        assert api.get(f"/api/v1/nodes/{made['id']}", headers=headers).status_code == 404
        assert api.get("/api/v1/nodes", params={"path": "/ada/x"}, headers=headers).status_code == 404
        assert api.get(f"/api/v1/nodes/{made['id']}/children", headers=headers).status_code == 404
    assert api.post("/api/v1/folders", json={"path": "/ada/x/y"}, headers=bob.headers).status_code == 404
    assert api.post("/api/v1/folders", json={"path": "/ada/x/y"}).status_code == 401


@pytest.mark.parametrize("sort", ["name", "created", "changed", "kind"])
@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_are_the_whole_folder_in_order(
    api: TestClient, database: Database, ada: Account, sort: str, order: str
) -> None:
    names = ["b", "A", "é", "c", "B", "a", "z", "10", "9"]
    for name in names:
        database.write(lambda connection, name=name: make_folder(connection, ada.caller, f"/ada/default/{name}"))
    folder = api.get("/api/v1/nodes", params={"path": "/ada/default"}, headers=ada.headers).json()["id"]
    url, params = f"/api/v1/nodes/{folder}/children", {"sort": sort, "order": order, "limit": 2}
    listed: list[dict[str, str]] = []
    while True:
        page = api.get(url, params=params, headers=ada.headers).json()
        assert len(page["nodes"]) <= 2
        listed += page["nodes"]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
    key = {"name": lambda n: n["name"].casefold(), "kind": lambda n: n["name"].casefold()}.get(sort, lambda n: n[sort])
    assert sorted(node["name"] for node in listed) == sorted(names)
    assert [key(node) for node in listed] == sorted((key(node) for node in listed), reverse=order == "desc")


@pytest.mark.parametrize("cursor", ["x", "AAAA", "WyJuYW1lIl0", "WyJuYW1lIiwgMSwgMl0", "W1tbW1tb"])
def test_cursor_that_is_none_is_refused(api: TestClient, ada: Account, cursor: str) -> None:
    folder = api.get("/api/v1/nodes", params={"path": "/ada"}, headers=ada.headers).json()["id"]
    response = api.get(f"/api/v1/nodes/{folder}/children", params={"cursor": cursor}, headers=ada.headers)
    assert (response.status_code, response.json()["kind"]) == (400, "invalid_input")

"""Keys, callers, and that the server starts."""

from __future__ import annotations

import urllib.request

import pytest
from harness import Account, Serving
from starlette.testclient import TestClient
from t9k.aistore.accounts import keys
from t9k.aistore.db import Database
from t9k.aistore.services import Services


def test_session_of_a_valid_key_names_its_user(api: TestClient, ada: Account) -> None:
    response = api.get("/api/v1/session", headers=ada.headers)
    assert response.status_code == 200
    assert response.json() == {"user": "ada", "role": "user", "scopes": ["read", "write"], "protocol": 1}


@pytest.mark.parametrize(
    "header",
    ["", "Basic xyz", "Bearer em_pat_x", f"Bearer {keys.make_key().text}"],
    ids=["none", "other scheme", "no key", "unknown key"],  # the same in every process
)
def test_session_without_a_valid_key_is_a_problem_document(api: TestClient, ada: Account, header: str) -> None:
    response = api.get("/api/v1/session", headers={"Authorization": header} if header else {})
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["kind"] == "auth"
    assert response.json()["request_id"] == response.headers["x-request-id"]


def test_key_checksum_tells_mistyped_from_wrong() -> None:
    key = keys.make_key()
    assert keys.is_well_formed(key.text)
    for index in range(len(keys.KEY_PREFIX), len(key.text)):
        changed = "A" if key.text[index] != "A" else "B"
        assert not keys.is_well_formed(key.text[:index] + changed + key.text[index + 1 :])
    assert key.text not in repr(key)


def test_upgrade_of_a_new_database_is_repeatable(services: Services, database: Database) -> None:
    from t9k.aistore.db.schema import upgrade

    upgrade(database)


def test_served_session_answers(serving: Serving) -> None:
    request = urllib.request.Request(
        f"{serving.url}/api/v1/session", headers={"Authorization": f"Bearer {serving.api_key}"}
    )
    with urllib.request.urlopen(request) as response:
        assert b'"admin"' in response.read()

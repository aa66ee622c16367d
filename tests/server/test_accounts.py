"""Users, keys, groups, passwords, limits on failures, and what of it is audited."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from harness import Account, make_account, run_server
from starlette.testclient import TestClient
from t9k.aistore.accounts import passwords
from t9k.aistore.accounts.caller import admit, claim_use, find_key, note_use
from t9k.aistore.accounts.failures import BURST, REFILL_S, FailureLimits, address_key
from t9k.aistore.accounts.keys import lookup_prefix, make_key
from t9k.aistore.accounts.users import add_key
from t9k.aistore.clock import iso, now_us
from t9k.aistore.db import Database, accounts
from t9k.aistore.db.tables.accounts import api_keys, audit, users
from t9k.aistore.errors import Refusal
from t9k.aistore.services import open_services
from t9k.aistore.settings import Settings


def ask(api: TestClient, account: Account | str | None, method: str, url: str, **arguments: Any) -> Any:
    key = account.key if isinstance(account, Account) else account
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return api.request(method, f"/api/v1{url}", headers=headers, **arguments)


def actions(database: Database) -> list[tuple[str, str]]:
    """What was audited and for what, in order, but for the accounts of the fixtures."""
    rows = database.read(lambda connection: list(connection.execute(sa.select(audit).order_by(audit.c.at_us))))
    return [(row.action, row.target) for row in rows if row.actor_id is not None]


def test_administrator_makes_changes_and_disables_users(
    api: TestClient, database: Database, root: Account, ada: Account
) -> None:
    made = ask(api, root, "POST", "/users", json={"name": "eve"})
    assert (made.status_code, made.json()["role"], made.json()["disabled"]) == (201, "user", None)
    assert ask(api, root, "POST", "/users", json={"name": "eve"}).status_code == 409
    assert ask(api, root, "POST", "/users", json={"name": "Eve"}).status_code == 400
    key = ask(api, root, "POST", "/users/eve/keys", json={"name": "first"}).json()["api_key"]
    assert ask(api, key, "GET", "/session").json()["user"] == "eve"
    assert ask(api, root, "PATCH", "/users/eve", json={"disabled": True}).json()["disabled"] is not None
    assert ask(api, key, "GET", "/session").status_code == 401
    ask(api, root, "PATCH", "/users/eve", json={"disabled": False, "role": "admin"})
    assert ask(api, key, "GET", "/session").json()["role"] == "admin"
    assert ask(api, key, "GET", "/users").status_code == 403  # the key still has no scope admin
    names = [user["name"] for user in ask(api, root, "GET", "/users").json()["users"]]
    assert names == ["ada", "eve", "root"]
    assert [action for action, _ in actions(database)] == [
        "user.add",
        "key.add",
        "user.disable",
        "user.role",
        "user.enable",
    ]


def test_last_administrator_stays(api: TestClient, root: Account, ada: Account) -> None:
    for change in ({"role": "user"}, {"disabled": True}):
        assert ask(api, root, "PATCH", "/users/root", json=change).status_code == 409
    ask(api, root, "PATCH", "/users/ada", json={"role": "admin"})
    assert ask(api, root, "PATCH", "/users/root", json={"role": "user"}).status_code == 200
    assert ask(api, root, "GET", "/users").status_code == 403  # at once


def test_own_keys_are_made_listed_and_revoked_at_once(api: TestClient, database: Database, ada: Account) -> None:
    made = ask(api, ada, "POST", "/keys", json={"name": "ci", "scopes": ["read"]}).json()
    assert ask(api, made["api_key"], "GET", "/session").json()["scopes"] == ["read"]
    listed = ask(api, ada, "GET", "/keys").json()["keys"]
    assert [(key["name"], key["scopes"]) for key in listed] == [("test", ["read", "write"]), ("ci", ["read"])]
    assert made["api_key"] not in str(listed)
    assert ask(api, ada, "DELETE", f"/keys/{listed[1]['id']}").status_code == 204
    assert ask(api, ada, "DELETE", f"/keys/{listed[1]['id']}").status_code == 404
    assert ask(api, made["api_key"], "GET", "/session").status_code == 401
    assert actions(database) == [("key.add", made["prefix"]), ("key.revoke", made["prefix"])]


def test_key_makes_none_that_may_do_more_or_lives_longer(api: TestClient, database: Database, ada: Account) -> None:
    soon = now_us() + 3_600_000_000
    key = add_key(database, "ada", "short", ("write",), soon).text
    for body in (
        {"name": "k", "scopes": ["read", "write"]},
        {"name": "k", "scopes": ["admin"]},
        {"name": "k", "scopes": ["write"]},
        {"name": "k", "scopes": ["write"], "expires": iso(soon + 1_000_000)},
    ):
        assert ask(api, key, "POST", "/keys", json=body).status_code == 403
    body = {"name": "k", "scopes": ["write"], "expires": iso(soon - 1_000_000)}
    assert ask(api, key, "POST", "/keys", json=body).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"name": "k", "scopes": []},
        {"name": "k", "scopes": ["root"]},
        {"name": "k", "expires": "tomorrow"},
        {"name": "k", "expires": "2001-01-01"},
        {"name": "k", "other": 1},
    ],
)
def test_key_that_cannot_be_is_refused(api: TestClient, ada: Account, body: dict[str, Any]) -> None:
    response = ask(api, ada, "POST", "/keys", json=body)
    assert (response.status_code, response.json()["kind"]) == (400, "invalid_input")


def test_no_key_of_a_user_has_the_scope_admin(api: TestClient, database: Database, root: Account, ada: Account) -> None:
    body = {"name": "k", "scopes": ["admin"]}
    assert ask(api, root, "POST", "/users/ada/keys", json=body).status_code == 400


def test_group_gives_access_until_it_or_the_member_goes(
    api: TestClient, database: Database, root: Account, ada: Account, bob: Account
) -> None:
    folder = ask(api, ada, "POST", "/folders", json={"path": "/ada/x"}).json()["id"]
    share, url = {"access": "view"}, f"/nodes/{folder}"
    assert ask(api, ada, "PUT", f"{url}/shares/group/vision", json=share).status_code == 404
    assert ask(api, root, "POST", "/groups", json={"name": "vision"}).status_code == 201
    assert ask(api, ada, "PUT", f"{url}/shares/group/vision", json=share).status_code == 200
    assert ask(api, bob, "GET", url).status_code == 404
    assert ask(api, root, "PUT", "/groups/vision/members/bob").json()["members"] == ["bob"]
    assert ask(api, root, "PUT", "/groups/vision/members/bob").status_code == 200
    assert ask(api, bob, "GET", url).status_code == 200
    assert [node["id"] for node in ask(api, bob, "GET", "/shared").json()["nodes"]] == [folder]
    assert ask(api, root, "DELETE", "/groups/vision/members/bob").status_code == 204
    assert ask(api, root, "DELETE", "/groups/vision/members/bob").status_code == 404
    assert ask(api, bob, "GET", url).status_code == 404
    ask(api, root, "PUT", "/groups/vision/members/bob")
    assert ask(api, root, "DELETE", "/groups/vision").status_code == 204
    ask(api, root, "POST", "/groups", json={"name": "vision"})  # another one of that name gets nothing
    ask(api, root, "PUT", "/groups/vision/members/bob")
    assert ask(api, bob, "GET", url).status_code == 404
    assert ask(api, root, "GET", "/groups").json()["groups"][0]["members"] == ["bob"]


def test_audit_trail_is_read_by_pages(api: TestClient, root: Account) -> None:
    for name in ("a", "b", "c"):
        ask(api, root, "POST", "/groups", json={"name": name})
    first = ask(api, root, "GET", "/audit", params={"limit": 2}).json()
    second = ask(api, root, "GET", "/audit", params={"limit": 2, "cursor": first["next"]}).json()
    rows = first["rows"] + second["rows"]
    assert {(row["action"], row["target"]) for row in rows[:3]} == {("group.add", name) for name in "abc"}
    assert rows[0]["actor"] == "root"
    assert rows[0]["address"] == "testclient"


def test_change_that_is_refused_leaves_no_audit_row(api: TestClient, database: Database, root: Account) -> None:
    ask(api, root, "PATCH", "/users/root", json={"disabled": True})
    ask(api, root, "PUT", "/groups/none/members/root")
    assert actions(database) == []


def test_bad_keys_become_429_and_a_good_one_is_always_accepted(api: TestClient, ada: Account) -> None:
    api.app.state.services.failures = FailureLimits(clock=lambda: 0.0)  # type: ignore[attr-defined]
    bad = [ask(api, make_key().text, "GET", "/session") for _ in range(BURST + 1)]
    assert [response.status_code for response in bad] == [401] * (BURST - 1) + [429] * 2
    assert bad[-1].headers["retry-after"] == "1"
    assert bad[-1].json()["kind"] == "transfer"
    assert ask(api, ada, "GET", "/session").status_code == 200
    assert ask(api, None, "GET", "/nodes", params={"path": "/ada"}).status_code == 404


def test_failures_are_forgiven_and_memory_is_bounded() -> None:
    now = [0.0]
    limits = FailureLimits(max_keys=100, clock=lambda: now[0])
    for _ in range(BURST):
        limits.note(("address", "1"))
    assert limits.is_over(("address", "1"))
    assert not limits.is_over(("address", "2"))
    now[0] += REFILL_S + 0.1
    assert not limits.is_over(("address", "1"))
    for number in range(10_000):
        limits.note(("address", str(number)))
    assert len(limits._buckets) == 100


def test_addresses_of_one_host_are_one() -> None:
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff:2") != address_key("2001:db8:0:1::1")
    assert address_key("::ffff:10.0.0.1") == address_key("10.0.0.1") != address_key("10.0.0.2")
    assert address_key("x" * 1000) == ("address", "x" * 64)


def test_password_is_kept_as_argon2id_and_verified(database: Database, ada: Account) -> None:
    limits = FailureLimits()
    passwords.set_password(database, ada.caller, "ada", "correct horse")
    stored = database.read(lambda connection: connection.execute(sa.select(users.c.password_hash)).scalar())
    assert str(stored).startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert passwords.verify_password(database, limits, "ada", "correct horse", "10.0.0.1").name == "ada"
    for name, password in (("ada", "wrong horse"), ("nobody", "correct horse"), ("ada", "x" * 5000)):
        with pytest.raises(Refusal) as refusal:
            passwords.verify_password(database, limits, name, password, "10.0.0.1")
        assert refusal.value.status == 401
    with pytest.raises(Refusal):
        passwords.set_password(database, None, "ada", "short")
    assert ("user.password", "ada") in actions(database)


def test_attacked_account_lets_its_owner_in_from_elsewhere(
    database: Database, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passwords, "_is_right", lambda stored, password: password == "correct horse")
    passwords.set_password(database, None, "ada", "correct horse")
    limits = FailureLimits(clock=lambda: 0.0)

    def status(password: str, address: str) -> int:
        try:
            passwords.verify_password(database, limits, "ada", password, address)
        except Refusal as refusal:
            return refusal.status
        return 200

    assert [status("wrong", f"10.0.0.{i}") for i in range(BURST + 5)] == [401] * (BURST + 5)
    assert status("wrong", "10.0.0.1") == 429  # this one has failed already
    assert status("correct horse", "10.0.0.1") == 429
    assert status("correct horse", "10.9.9.9") == 200


def test_expired_key_is_refused_and_use_is_noted(api: TestClient, database: Database, ada: Account) -> None:
    key = make_account(database, "eve")
    assert ask(api, key, "GET", "/session").status_code == 200
    noted = sa.select(api_keys.c.last_used_us).where(api_keys.c.id == key.caller.key_id)
    assert database.read(lambda connection: connection.execute(noted).scalar()) is not None
    ended = sa.update(api_keys).where(api_keys.c.id == key.caller.key_id).values(expires_us=now_us() - 1)
    database.write(lambda connection: connection.execute(ended))
    assert ask(api, key, "GET", "/session").status_code == 401


def test_good_key_is_accepted_where_its_use_cannot_be_noted(
    api: TestClient, database: Database, ada: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full since a minute must not end reading."""
    never = sa.update(api_keys).where(api_keys.c.id == ada.caller.key_id).values(last_used_us=None)
    database.write(lambda connection: connection.execute(never))
    tried = []

    def fail(*arguments: object) -> None:
        tried.append(arguments)
        raise sa.exc.OperationalError("UPDATE", {}, Exception("database or disk is full"))

    monkeypatch.setattr("t9k.aistore.db.accounts.touch_key", fail)
    assert ask(api, ada, "GET", "/session").status_code == 200
    assert len(tried) == 1


def test_use_is_noted_by_one_of_those_who_were_looked_up_together(database: Database, ada: Account) -> None:
    row = find_key(database, ada.key).result()
    forget = sa.update(api_keys).values(last_used_us=None)
    database.write(lambda connection: connection.execute(forget))
    assert not claim_use(row)  # noted when the account was made
    row = find_key(database, ada.key).result()
    assert [claim_use(row), claim_use(row)] == [True, False]
    note_use(database, row)
    assert not claim_use(find_key(database, ada.key).result())


def test_keys_that_are_looked_up_together_are_not_mixed_up(database: Database, ada: Account, bob: Account) -> None:
    other = make_key()
    texts = [ada.key, bob.key, other.text, ada.key] * 5
    rows = database.query(lambda connection: accounts.keys_by_prefix(connection, [lookup_prefix(key) for key in texts]))
    for key, row in zip(texts, rows, strict=True):
        if key == other.text:
            assert row is None
        else:
            assert admit(key, row) == (ada.caller if key == ada.key else bob.caller)
        with pytest.raises(Refusal):
            admit(make_key().text, row)


@pytest.mark.parametrize("processes", [1, 2, 4, 10])
def test_limits_of_several_processes_are_together_those_of_one(processes: int) -> None:
    now = [0.0]
    limits = [FailureLimits(clock=lambda: now[0], processes=processes) for _ in range(processes)]

    def tries_until_all_refuse() -> int:
        count = 0
        while any(
            not limit.is_over(("key", "k")) for limit in limits
        ):  # who tries picks the process that still answers
            next(limit for limit in limits if not limit.is_over(("key", "k"))).note(("key", "k"))
            count += 1
        return count

    assert tries_until_all_refuse() <= BURST
    now[0] += 20 * REFILL_S * 1.001
    assert tries_until_all_refuse() <= 20


def test_server_with_workers_divides_the_limits(tmp_path: Path) -> None:
    services = open_services(Settings(data_dir=tmp_path / "data", workers=4))
    for _ in range(BURST // 4):
        assert not services.failures.is_over(("key", "k"))
        services.failures.note(("key", "k"))
    services.failures.note(("key", "k"))  # a part of the first is forgiven by now
    assert services.failures.is_over(("key", "k"))
    services.close()


def test_workers_together_forgive_no_more_than_one_and_lock_nobody_out(
    tmp_path: Path, database_url: str | None
) -> None:
    """Each try is a connection of its own, so that all of the processes are asked."""
    with run_server(tmp_path / "data", database_url, "--workers", "4") as serving:
        url, good = f"{serving.url}/api/v1/session", {"Authorization": f"Bearer {serving.api_key}"}
        began = time.monotonic()
        answers: Counter[int] = Counter()
        for number in range(200):
            wrong = {"Authorization": f"Bearer {make_key().text}"}
            answers[requests.get(url, headers=wrong, timeout=60).status_code] += 1
            if number % 20 == 0:
                assert requests.get(url, headers=good, timeout=60).status_code == 200
        forgiven = (time.monotonic() - began) / REFILL_S
    assert set(answers) == {401, 429}
    assert answers[401] <= BURST + forgiven

"""The record of a run: made once, changed in parts, alive as long as it beats."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from harness import Account
from run_records import new_run
from starlette.testclient import TestClient
from t9k.aistore.db import Database
from t9k.aistore.db.tables.runs import run_params, runs
from t9k.aistore.runs import records


def get(api: TestClient, account: Account, run_id: str) -> dict[str, Any]:
    response = api.get(f"/api/v1/runs/{run_id}", headers=account.headers)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def patch(api: TestClient, account: Account, run_id: str, **body: Any) -> Any:
    return api.patch(f"/api/v1/runs/{run_id}", json=body, headers=account.headers)


def age(database: Database, run_id: str, seconds: float) -> None:
    """Lets the last heartbeat be this long ago."""
    older = sa.update(runs).where(runs.c.node_id == run_id)
    older = older.values(heartbeat_us=runs.c.heartbeat_us - int(seconds * 1e6))
    database.write(lambda connection: connection.execute(older))


def test_new_run_keeps_what_the_client_wrote(api: TestClient, ada: Account) -> None:
    said = {
        "state": "Failed",
        "start_timestamp": "2026-01-02T03:04:05.678Z",
        "end_timestamp": "2026-01-02T04:04:05.678Z",
        "metadata": {"error": "Traceback …", "process": {"pid": 1}},
        "hparams": {"lr": 1e-3, "layers": [1, 2], "optimizer": {"name": "adam"}},
        "platform": {"python": "3.11", "packages": {"numpy": "2"}},
        "git": {"commit": "abc"},
    }
    run_id = new_run(api, ada, labels=["b", "a"], description="what\nfor", **said)
    found = get(api, ada, run_id)
    assert {key: found[key] for key in said} == said
    assert list(found["hparams"]) == ["lr", "layers", "optimizer"]
    assert found["node"]["labels"] == ["b", "a"]
    assert found["node"]["description"] == "what\nfor"
    assert found["node"]["kind"] == "Run"
    by_path = api.get("/api/v1/runs", params={"path": found["node"]["path"]}, headers=ada.headers)
    assert by_path.json() == found


def test_same_client_id_makes_a_run_once(api: TestClient, ada: Account, bob: Account) -> None:
    run_id = new_run(api, ada, "same", hparams={"a": 1})
    body = {"client_id": "same", "placement": {"folder": "/ada/default", "name": "other"}, "hparams": {"a": 2}}
    again = api.post("/api/v1/runs", json=body, headers=ada.headers)
    assert again.status_code == 200
    assert again.json()["node"]["id"] == run_id
    assert again.json()["created"] is False
    assert get(api, ada, run_id)["hparams"] == {"a": 1}
    assert new_run(api, bob, "same") != run_id


def test_client_id_of_a_run_in_the_trash_is_a_conflict(api: TestClient, ada: Account, database: Database) -> None:
    from t9k.aistore.db import nodes

    run_id = new_run(api, ada, "gone")
    database.write(lambda connection: nodes.trash(connection, run_id, 1))
    body = {"client_id": "gone", "placement": {"folder": "/ada/default", "name": "gone"}}
    assert api.post("/api/v1/runs", json=body, headers=ada.headers).status_code == 409


@pytest.mark.parametrize(
    ("strategy", "status", "name"),
    [("error", 409, None), ("skip", 200, "taken"), ("new", 201, "alt"), ("replace", 201, "taken")],
)
def test_taken_name_follows_the_strategy(
    api: TestClient, ada: Account, strategy: str, status: int, name: str | None
) -> None:
    first = new_run(api, ada, "taken")
    placement = {"folder": "/ada/default", "name": "taken", "alternative_name": "alt", "conflict_strategy": strategy}
    body = {"client_id": "second", "placement": placement}
    response = api.post("/api/v1/runs", json=body, headers=ada.headers)
    assert response.status_code == status
    if name is not None:
        assert response.json()["node"]["name"] == name
        assert (response.json()["node"]["id"] == first) == (strategy == "skip")


def test_patch_changes_only_what_is_said(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada, hparams={"a": 1}, git={"commit": "x"}, labels=["old"])
    before = get(api, ada, run_id)
    changed = patch(api, ada, run_id, hparams={"b": 2}, labels=["new", "new"])
    assert changed.status_code == 200
    after = get(api, ada, run_id)
    assert changed.json() == after
    assert after["hparams"] == {"b": 2}
    assert after["git"] == {"commit": "x"}
    assert after["node"]["labels"] == ["new"]
    assert after["node"]["version"] > before["node"]["version"]


def test_patch_with_the_etag_of_another_version_changes_nothing(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada, hparams={"a": 1})
    etag = api.get(f"/api/v1/runs/{run_id}", headers=ada.headers).headers["etag"]
    for expected, value in ((200, 2), (412, 3)):
        headers = ada.headers | {"If-Match": f'{etag}, "7"'}
        response = api.patch(f"/api/v1/runs/{run_id}", json={"hparams": {"a": value}}, headers=headers)
        assert response.status_code == expected
    assert get(api, ada, run_id)["hparams"] == {"a": 2}


def test_run_that_ends_gets_an_end_and_one_that_goes_on_has_none(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada)
    assert get(api, ada, run_id)["end_timestamp"] is None
    assert patch(api, ada, run_id, state="Complete").json()["end_timestamp"] is not None
    assert patch(api, ada, run_id, state="Running").json()["end_timestamp"] is None
    ended = patch(api, ada, run_id, state="Failed", end_timestamp="2026-01-01T00:00:00+01:00").json()
    assert ended["end_timestamp"] == "2025-12-31T23:00:00.000Z"


def test_silent_run_crashes_and_a_late_beat_revives_it(api: TestClient, ada: Account, database: Database) -> None:
    run_id = new_run(api, ada)
    age(database, run_id, 170)
    assert records.crash_silent(database, 180) == 0
    age(database, run_id, 20)
    assert records.crash_silent(database, 180) == 1
    crashed = get(api, ada, run_id)
    assert crashed["state"] == "Crashed"
    assert crashed["end_timestamp"] == crashed["heartbeat"]
    beat = api.post(f"/api/v1/runs/{run_id}/heartbeat", headers=ada.headers)
    assert beat.json() == {"state": "Running"}
    alive = get(api, ada, run_id)
    assert (alive["state"], alive["end_timestamp"]) == ("Running", None)
    assert records.crash_silent(database, 180) == 0


def test_finish_wins_over_silence_and_heartbeats(api: TestClient, ada: Account, database: Database) -> None:
    run_id = new_run(api, ada)
    age(database, run_id, 500)
    assert records.crash_silent(database, 180) == 1
    assert patch(api, ada, run_id, state="Complete").status_code == 200
    age(database, run_id, 500)
    assert records.crash_silent(database, 180) == 0
    assert api.post(f"/api/v1/runs/{run_id}/heartbeat", headers=ada.headers).json() == {"state": "Complete"}
    assert get(api, ada, run_id)["state"] == "Complete"


def test_parameters_are_flat_for_filters(api: TestClient, ada: Account, database: Database) -> None:
    hparams = {
        "lr": 0.5,
        "deep": {"on": True, "name": "x" * 300, "more": {"n": 2}},
        "deep.on": "twice",
        "list": [1],
        "none": None,
        "huge": 10**400,
        "k" * 300: 1,
        "nul": "a\0b",
    }
    run_id = new_run(api, ada, hparams=hparams)
    assert get(api, ada, run_id)["hparams"] == hparams
    query = sa.select(run_params.c.key, run_params.c.number, run_params.c.text).where(run_params.c.node_id == run_id)
    rows = database.read(lambda connection: {row.key: (row.number, row.text) for row in connection.execute(query)})
    assert rows == {
        "lr": (0.5, None),
        "deep.on": (1.0, "true"),
        "deep.name": (None, "x" * 255),
        "deep.more.n": (2.0, None),
        "nul": (None, "ab"),
    }


@pytest.mark.parametrize(
    "text",
    [
        '{"hparams": {"a": NaN}}',
        '{"hparams": {"a": 1e999}}',
        '{"hparams": {"a": "\\ud800"}}',
        '{"hparams": {"\\ud800": 1}}',
        '{"labels": ["\\ud800"]}',
        '{"labels": [""]}',
        '{"description": "a\\u0000b"}',
        '{"hparams": ' + '{"a":' * 80 + "1" + "}" * 80 + "}",
        '{"hparams": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"hparams": []}',
        '{"state": "Sleeping"}',
        '{"start_timestamp": "yesterday"}',
        '{"start_timestamp": "0001-01-01T00:00:00+23:59"}',
        '{"unknown": 1}',
        '{"hparams": {"a": 1' + "0" * 5000 + "}}",
    ],
)
def test_hostile_document_is_refused(api: TestClient, ada: Account, text: str) -> None:
    run_id = new_run(api, ada)
    headers = ada.headers | {"Content-Type": "application/json"}
    response = api.patch(f"/api/v1/runs/{run_id}", content=text, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["kind"] == "invalid_input"


def test_document_of_more_than_a_megabyte_is_refused(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada)
    assert patch(api, ada, run_id, metadata={"a": "x" * (1 << 20)}).status_code == 413


def test_folder_is_no_run(api: TestClient, ada: Account) -> None:
    folder = api.get("/api/v1/nodes", params={"path": "/ada/default"}, headers=ada.headers).json()["id"]
    assert api.get(f"/api/v1/runs/{folder}", headers=ada.headers).status_code == 404
    assert patch(api, ada, folder, hparams={}).status_code == 404
    assert api.post(f"/api/v1/runs/{folder}/heartbeat", headers=ada.headers).status_code == 404


def test_log_grows_by_repeated_and_overlapping_writes_only(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada)
    url = f"/api/v1/runs/{run_id}/log"
    text = "".join(f"line {number} é\n" for number in range(20_000)).encode()

    def put(start: int, stop: int) -> Any:
        return api.put(url, params={"offset": start}, content=text[start:stop], headers=ada.headers)

    assert put(5, 10).status_code == 409
    for start, stop, end in ((0, 7, 7), (0, 7, 7), (3, 100, 100), (100, 200_000, 200_000), (50, 60, 200_000)):
        response = put(start, stop)
        assert (response.status_code, response.json()) == (200, {"log_bytes": end})
    assert put(200_000, len(text)).json() == {"log_bytes": len(text)}
    whole = api.get(url, headers=ada.headers)
    assert (whole.status_code, whole.content) == (200, text)
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    for wanted, start, stop in (
        ("0-9", 0, 10),
        ("65530-131080", 65530, 131081),
        ("-5", len(text) - 5, len(text)),
        (f"{len(text) - 1}-", len(text) - 1, len(text)),
        (f"10-{10**17}", 10, len(text)),
    ):
        part = api.get(url, headers=ada.headers | {"Range": f"bytes={wanted}"})
        assert (part.status_code, part.content) == (206, text[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(text)}"
    for wanted in (f"{len(text)}-", "-0", "9-3"):
        assert api.get(url, headers=ada.headers | {"Range": f"bytes={wanted}"}).status_code == 416
    for wanted in ("lines=1-2", "bytes=0-1,4-5", "bytes=-", "bytes=x-"):
        assert api.get(url, headers=ada.headers | {"Range": wanted}).status_code == 200


def test_log_has_caps(api: TestClient, ada: Account) -> None:
    from t9k.protocol.runs import MAX_LOG_BYTES, MAX_LOG_PART_BYTES

    url = f"/api/v1/runs/{new_run(api, ada)}/log"
    too_much = api.put(url, params={"offset": 0}, content=b"x" * (MAX_LOG_PART_BYTES + 1), headers=ada.headers)
    assert too_much.status_code == 413
    behind = api.put(url, params={"offset": MAX_LOG_BYTES}, content=b"x", headers=ada.headers)
    assert behind.status_code == 413
    assert api.get(url, headers=ada.headers).content == b""


def test_edges_replace_their_side(api: TestClient, ada: Account, database: Database) -> None:
    from t9k.aistore.db.tables.runs import edges

    run_id, other = new_run(api, ada), new_run(api, ada, "other")
    url = f"/api/v1/runs/{run_id}/edges"

    def stored() -> set[tuple[str, str | None, str | None]]:
        query = sa.select(edges).where(edges.c.run_id == run_id)
        return database.read(
            lambda connection: {(row.side, row.node_id, row.external_name) for row in connection.execute(query)}
        )

    both = {
        "inputs": [{"path": "/ada/default/other"}, {"id": other}, {"type": "Dataset", "name": "images/cifar10:v1"}],
        "outputs": [{"type": "Model", "name": "llm/gpt2"}],
    }
    for _ in range(2):
        assert api.put(url, json=both, headers=ada.headers).status_code == 204
        assert stored() == {("input", other, None), ("input", None, "images/cifar10:v1"), ("output", None, "llm/gpt2")}
    assert api.put(url, json={"inputs": []}, headers=ada.headers).status_code == 204
    assert stored() == {("output", None, "llm/gpt2")}
    bad = (
        {"id": other, "path": "/ada"},
        {},
        {"type": "Model"},
        {"type": "Model", "name": ""},
        {"type": "Model", "name": "a\0"},
        {"path": "no slash"},
    )
    for target in bad:
        assert api.put(url, json={"inputs": [target]}, headers=ada.headers).status_code == 400
    for target in ({"id": "0" * 20}, {"path": "/ada/none"}):
        assert api.put(url, json={"inputs": [target]}, headers=ada.headers).status_code == 404

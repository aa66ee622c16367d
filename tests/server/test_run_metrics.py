"""Batches of metrics: each once, whatever comes in which order; and what hostile ones do."""

from __future__ import annotations

import struct
import threading
from array import array
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from harness import Account
from run_records import batch, new_run, put
from starlette.testclient import TestClient
from t9k.aistore.db import Database
from t9k.aistore.db.tables.runs import metric_blocks
from t9k.aistore.errors import Refusal
from t9k.aistore.runs import batches, blocks, buckets
from t9k.protocol.metric_batch import MAX_BATCH_BYTES, NOT_LOGGED, decode_batch, encode_batch

ONE = encode_batch(batch(0, 1, loss=[1.0]))


def stored(database: Database, run_id: str) -> int:
    query = sa.select(sa.func.count()).where(metric_blocks.c.node_id == run_id)
    return int(database.read(lambda connection: connection.execute(query).scalar_one()))


def test_repeated_batch_is_stored_once(api: TestClient, ada: Account, database: Database) -> None:
    run_id = new_run(api, ada)
    assert put(api, ada, run_id, "train", 0, ONE).status_code == 201
    again = put(api, ada, run_id, "train", 0, batch(5, 2, other=[1.0, 2.0]))
    assert (again.status_code, again.json()) == (200, {"stored": False})
    assert put(api, ada, run_id, "train", 0, ONE, session="s2").status_code == 201
    assert put(api, ada, run_id, "val", 0, ONE).status_code == 201
    assert stored(database, run_id) == 3


def test_stranger_beside_the_owner_is_refused_alone(
    api: TestClient, ada: Account, bob: Account, database: Database
) -> None:
    runs = [new_run(api, ada, f"c{number}") for number in range(3)]
    is_open = threading.Event()
    holder = threading.Thread(target=database.write_to_run, args=("held", lambda _: is_open.wait(60)))
    holder.start()  # what comes meanwhile shares a transaction
    asked = [(ada, runs[0]), (bob, runs[1]), (ada, "no-such-run"), (bob, runs[2]), (ada, runs[2]), (ada, runs[1])]
    answers = [batches.put(database, who.caller, run_id, "train", "s", 0, ONE) for who, run_id in asked]
    is_open.set()
    for (who, run_id), answer in zip(asked, answers, strict=True):
        if who is ada and run_id in runs:
            assert answer.result(60)
        else:
            with pytest.raises(Refusal, match="there is no node"):
                answer.result(60)
    assert [stored(database, run_id) for run_id in runs] == [1, 1, 1]
    holder.join()


def test_batch_that_would_hold_up_others_is_not_short() -> None:
    assert batches.is_short(ONE)
    assert batches.is_short(b"")
    assert not batches.is_short(encode_batch(batch(0, 10_000, loss=[1.0] * 10_000)))
    assert not batches.is_short(encode_batch(batch(0, 1, **{f"m{number}": [1.0] for number in range(1000)})))


def raw(points: int, names: int, rest: bytes = b"") -> bytes:
    return struct.pack("<II", points, names) + rest


def named(*names: bytes) -> bytes:
    columns = b"".join(struct.pack("<H", len(name)) + name + bytes(8) for name in names)
    return raw(1, len(names), bytes(24) + columns)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\1",
        raw(0, 0),
        raw(0, 1, bytes(100)),
        raw(1, 0, bytes(24)),
        raw(2**32 - 1, 2**32 - 1, bytes(100)),
        raw(100_000, 1, bytes(100)),
        raw(1, 10_000, bytes(100)),
        raw(1, 1, bytes(24)),
        ONE[:-1],
        ONE + b"\0",
        named(b"a", b"a"),
        named(b""),
        named(b"\xff"),
        named(b"\xed\xa0\x80"),
        named(b"a\0b"),
        named(b"x" * 1025),
        raw(1, 1, bytes(24) + b"\xff\xff" + b"x" * 100),
    ],
)
def test_batch_that_lies_is_refused_whole(api: TestClient, ada: Account, database: Database, data: bytes) -> None:
    run_id = new_run(api, ada)
    response = put(api, ada, run_id, "train", 0, data)
    assert response.status_code == 400, response.text
    assert response.json()["kind"] == "invalid_input"
    assert stored(database, run_id) == 0


def test_batch_beyond_the_cap_is_too_large(api: TestClient, ada: Account) -> None:
    assert put(api, ada, new_run(api, ada), "train", 0, bytes(MAX_BATCH_BYTES + 1)).status_code == 413


@pytest.mark.parametrize("kind", [".hidden", "a%5Cb", "%00", "x" * 201, "%e2%80%ae", "a%0ab"])
def test_type_that_cannot_be_one_is_refused(api: TestClient, ada: Account, kind: str) -> None:
    assert put(api, ada, new_run(api, ada), kind, 0, ONE).status_code == 400


def test_extreme_steps_times_and_names_are_stored(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada)
    extreme = batch(0, 2, **{"x" * 1024: [float("inf"), float("-inf")], "损失": [float("nan"), 5e-324]})
    for column in (extreme.steps, extreme.epochs, extreme.times_us):
        column[0], column[1] = -(2**63), 2**63 - 1
    assert put(api, ada, run_id, "eigener Typ", 2**53, extreme).status_code == 201
    assert put(api, ada, run_id, "train", 2**53 + 1, extreme).status_code == 400


def test_values_of_a_batch_survive_the_wire() -> None:
    from t9k.protocol.metric_batch import NOT_LOGGED_BITS

    bits = [NOT_LOGGED_BITS, 0x7FF8000000000000, 0xFFF8000000000002, 0x7FF0000000000000, 0x8000000000000000, 1]
    column = array("d")
    column.frombytes(array("Q", bits).tobytes())
    sent = batch(-3, len(bits), a=[])
    sent.values["a"] = column
    found = decode_batch(encode_batch(sent))
    assert found.values["a"].tobytes() == column.tobytes()
    assert (found.steps, found.epochs, found.times_us) == (sent.steps, sent.epochs, sent.times_us)


def test_second_batch_adds_to_what_is_known(api: TestClient, ada: Account, database: Database) -> None:
    from t9k.aistore.db import metrics

    run_id = new_run(api, ada)
    nan, inf = float("nan"), float("inf")
    batches = [
        (1, batch(10, 2, loss=[1.0, nan], acc=[inf, 0.5])),
        (0, batch(0, 2, loss=[9.0, -1.0], late=[nan, nan])),
        (1, batch(50, 1, loss=[100.0])),  # again, and of other content: nothing
    ]
    for sequence, content in batches:
        assert put(api, ada, run_id, "train", sequence, content).status_code < 300
    rows = database.read(lambda connection: metrics.series_of(connection, run_id, "train"))
    found = {name: (row.number, row.logged, row.last, row.last_step, row.min, row.max) for name, row in rows.items()}
    assert found == {
        "loss": (0, 4, None, 11, -1.0, 9.0),
        "acc": (1, 2, 0.5, 11, 0.5, inf),
        "late": (2, 2, None, 1, None, None),
    }
    kind = database.read(lambda connection: metrics.type_of(connection, run_id, "train"))
    assert (kind.points, kind.first_step, kind.last_step) == (4, 0, 11)


def get(api: TestClient, account: Account, run_id: str, what: str = "", **query: Any) -> Any:
    response = api.get(f"/api/v1/runs/{run_id}/metrics{what}", params=query, headers=account.headers)
    assert response.status_code == 200, response.text
    return response.json()


def test_values_that_json_lacks_are_text_and_missing_ones_null(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada)
    nan, inf = float("nan"), float("inf")
    content = batch(0, 5, loss=[nan, inf, -inf, 0.5, NOT_LOGGED])
    content.epochs[1] = 7
    assert put(api, ada, run_id, "train", 0, content).status_code == 201
    assert get(api, ada, run_id) == {
        "types": [
            {
                "type": "train",
                "points": 5,
                "first_step": 0,
                "last_step": 4,
                "metrics": [
                    {
                        "name": "loss",
                        "logged": 4,
                        "last": 0.5,
                        "last_step": 3,
                        "min": "-Infinity",
                        "max": "Infinity",
                    }
                ],
            }
        ]
    }
    assert get(api, ada, run_id, "/train") == {
        "steps": [0, 1, 2, 3, 4],
        "epochs": [None, 7, None, None, None],
        "times_us": [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000],
        "values": {"loss": ["NaN", "Infinity", "-Infinity", 0.5, None]},
        "next": None,
    }
    chart = get(api, ada, run_id, "/train/buckets", width=2)
    assert (chart["first_step"], chart["last_step"], chart["width"]) == (0, 4, 2)
    assert chart["metrics"] == [
        {
            "name": "loss",
            "buckets": [0, 1],
            "min": ["-Infinity", 0.5],
            "max": ["Infinity", 0.5],
            "last": ["-Infinity", 0.5],
            "logged": [3, 1],
        }
    ]


def test_pages_in_bytes_are_batches_as_clients_send_them(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada)
    for sequence in range(5):
        content = batch(sequence * 10, 10, a=[float(sequence)] * 10, b=[0.25] * 10)
        assert put(api, ada, run_id, "train", sequence, content).status_code == 201
    headers = ada.headers | {"Accept": "application/octet-stream"}
    steps: list[int] = []
    query: dict[str, Any] = {"limit": 7, "name": ["b", "a"]}
    while True:
        response = api.get(f"/api/v1/runs/{run_id}/metrics/train", params=query, headers=headers)
        assert response.headers["content-type"] == "application/octet-stream"
        page = decode_batch(response.content)
        assert list(page.values) == ["b", "a"]
        assert page.values["a"].tolist() == [float(step // 10) for step in page.steps]
        steps += page.steps
        following = response.headers.get("em-next")
        if following is None:
            break
        query["cursor"] = following
    assert steps == list(range(50))
    nothing = api.get(f"/api/v1/runs/{run_id}/metrics/train", params={"first_step": 99}, headers=headers)
    assert len(decode_batch(nothing.content)) == 0


def test_unknown_type_metric_cursor_and_empty_range_are_refused(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada)
    assert put(api, ada, run_id, "train", 0, ONE).status_code == 201
    url = f"/api/v1/runs/{run_id}/metrics/"
    for path, query, status in (
        ("val", {}, 404),
        ("train", {"name": "acc"}, 404),
        ("train", {"cursor": "1"}, 400),
        ("train", {"cursor": "1.2.3.4"}, 400),
        ("train", {"limit": 0}, 400),
        ("train", {"first_step": 2**63}, 400),
        ("train/buckets", {}, 400),
        ("train/buckets", {"width": 10_001}, 400),
        ("train/buckets", {"width": 10, "first_step": 5, "last_step": 4}, 400),
        ("val/buckets", {"width": 10}, 404),
    ):
        assert api.get(url + path, params=query, headers=ada.headers).status_code == status, (path, query)
    beyond = get(api, ada, run_id, "/train/buckets", width=10, first_step=-(2**63), last_step=2**63 - 1)
    assert beyond["metrics"][0]["logged"] == [1]


def test_chart_of_too_much_asks_for_less(api: TestClient, ada: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "MAX_VALUES", 30)
    run_id = new_run(api, ada)
    assert put(api, ada, run_id, "train", 0, batch(0, 20, a=[0.5] * 20, b=[1.5] * 20)).status_code == 201
    url = f"/api/v1/runs/{run_id}/metrics/train/buckets"
    refused = api.get(url, params={"width": 5}, headers=ada.headers)
    assert (refused.status_code, refused.json()["hint"]) == (400, "name fewer, or fewer steps")
    chart = get(api, ada, run_id, "/train/buckets", width=5, name="b")
    assert chart["metrics"][0]["logged"] == [4] * 5


def test_reading_holds_few_numbers_at_once_however_many_are_wanted() -> None:
    rows = [SimpleNamespace(points=1000, names=1000, level=level % 2) for level in range(40)]
    groups = list(blocks._groups(rows, 10))
    assert [row for group in groups for row in group] == rows
    for group in groups:
        cells = [row.points * (4 + (row.names if row.level == 0 else 10)) for row in group]
        assert sum(cells[:-1]) < blocks.CELLS_AT_ONCE


def test_what_is_stored_of_a_session_is_told_by_type(api: TestClient, ada: Account) -> None:
    run_id = new_run(api, ada)
    for sequence in range(3):
        put(api, ada, run_id, "train", sequence, batch(10 * sequence, 10, loss=[1.0] * 10))
    put(api, ada, run_id, "val", 0, batch(0, 2, loss=[1.0, 2.0]))
    put(api, ada, run_id, "val", 0, batch(0, 5, loss=[1.0] * 5), session="another")
    url = f"/api/v1/runs/{run_id}/sessions"
    assert api.get(f"{url}/s1", headers=ada.headers).json()["types"] == [
        {"type": "train", "next_sequence": 3, "points": 30},
        {"type": "val", "next_sequence": 1, "points": 2},
    ]
    assert api.get(f"{url}/unheard-of", headers=ada.headers).json() == {"types": []}
    assert api.get(f"{url}/no%20session", headers=ada.headers).status_code == 400

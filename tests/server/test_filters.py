"""Filters of listings: what they take, what they refuse, and that hostile text stays text."""

from __future__ import annotations

import contextlib

import pytest
from harness import Account
from hypothesis import given
from hypothesis import strategies as st
from run_records import batch, new_run, put
from starlette.testclient import TestClient
from t9k.aistore.errors import Refusal
from t9k.aistore.tree.query import All, Comparison, Filter, Not, Some, parse_filter


def listed(api: TestClient, account: Account, wanted: str) -> set[str]:
    folder = api.get("/api/v1/nodes", params={"path": f"/{account.name}/default"}, headers=account.headers).json()
    url = f"/api/v1/nodes/{folder['id']}/children"
    response = api.get(url, params={"filter": wanted}, headers=account.headers)
    assert response.status_code == 200, response.text
    return {node["name"] for node in response.json()["nodes"]}


@pytest.fixture
def some_runs(api: TestClient, ada: Account) -> None:
    """Three runs and a folder."""
    one = new_run(api, ada, "one", labels=["best", "50%"], hparams={"lr": 0.1, "opt": {"name": "Adam"}}, state="Failed")
    two = new_run(api, ada, "Two", labels=["worst"], hparams={"lr": 0.01, "opt": {"name": "sgd"}, "amp": True})
    new_run(api, ada, "three")
    put(api, ada, one, "val", 0, batch(0, 2, accuracy=[0.1, 0.9], **{"top 1.0": [1.0, 2.0]}))
    put(api, ada, two, "val", 0, batch(0, 2, accuracy=[0.9, 0.5]))
    assert api.post("/api/v1/folders", json={"path": "/ada/default/a_b"}, headers=ada.headers).status_code == 201


def test_filters_take_what_they_say(api: TestClient, ada: Account, some_runs: None) -> None:
    everything = {"one", "Two", "three", "a_b"}
    expected = {
        "kind = Run": {"one", "Two", "three"},
        "kind != Run": {"a_b"},
        "name = one": {"one"},
        "name ~ t*": {"Two", "three"},
        "name !~ T*": {"one", "a_b"},
        "name ~ ?_?": {"a_b"},
        "name ~ %": set(),
        "label = best": {"one"},
        'label ~ "*%"': {"one"},
        "label ~ BE*": {"one"},
        "label != best": everything - {"one"},
        "label !~ *st": everything - {"one", "Two"},
        "state = Failed": {"one"},
        "state != Failed": {"Two", "three"},
        "metric.val.accuracy > 0.5": {"one"},
        "metric.val.accuracy >= 5e-1": {"one", "Two"},
        'metric.val."top 1.0" = 2': {"one"},
        "metric.train.accuracy > 0": set(),
        "param.lr < 0.1": {"Two"},
        "param.lr != 0.1": {"Two"},
        "not param.lr = 0.1": everything - {"one"},
        "param.opt.name = Adam": {"one"},
        "param.opt.name ~ ADAM": {"one"},
        'param."opt.name" = "sgd"': {"Two"},
        "param.amp = true": {"Two"},
        'param.lr = "0.1"': set(),
        "created > 2020-01-01 and created < 2999-01-01T00:00:00Z": everything,
        "changed < 2020-01-01": set(),
        "kind = Folder or label = best and not state = Running": {"a_b", "one"},
        "(kind = Folder or label = best) and not kind = Folder": {"one"},
        "not not name = one": {"one"},
    }
    assert {wanted: listed(api, ada, wanted) for wanted in expected} == expected


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "kind",
        "kind =",
        "kind = Run and",
        "kind = Run Run",
        "(kind = Run",
        "kind = Run)",
        "kind < Run",
        "nothing = 1",
        "kind.x = 1",
        "metric.val > 1",
        "metric.val.x > big",
        "metric.val.x > 1e999",
        'metric.val.x > "1"',
        "metric.val.x ~ 1",
        "param = 1",
        "param.x < word",
        "created > yesterday",
        "created = 2026-01-01",
        "created > 0001-01-01T00:00:00+23:59 and",
        'name = "open',
        "name = 'x'; drop table nodes",
        'name = "\0"',
        "(" * 30 + "kind = Run" + ")" * 30,
        " and ".join(["kind = Run"] * 51),
        "x" * 2001,
    ],
)
def test_filter_that_is_none_is_refused_with_the_place(wanted: str) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_filter(wanted)
    assert refusal.value.kind == "invalid_input"


@pytest.mark.parametrize("text", ["' OR 1=1 --", '"; DROP TABLE nodes; --', "\\", "%", "_", "*", ") or (1=1"])
def test_hostile_text_is_text(api: TestClient, ada: Account, some_runs: None, text: str) -> None:
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    for field in ("name", "label", "kind", "state", "param.x", f'param."{quoted}"'):
        assert listed(api, ada, f'{field} = "{quoted}"') == set()
    assert len(listed(api, ada, f'not name = "{quoted}"')) == 4


comparisons = st.builds(
    Comparison,
    st.sampled_from(["name", "label"]),
    st.just(()),
    st.sampled_from(["=", "!=", "~", "!~"]),
    st.text(st.characters(exclude_categories=("Cc", "Cs"), codec="ascii"), max_size=9),
) | st.builds(
    Comparison,
    st.just("metric"),
    st.tuples(st.sampled_from(["val", "a b"]), st.sampled_from(["x", "y.z", '"'])),
    st.sampled_from(["=", "<", ">="]),
    st.floats(allow_nan=False, allow_infinity=False),
)
filters: st.SearchStrategy[Filter] = st.recursive(
    comparisons,
    lambda inner: (
        st.builds(Not, inner)
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: All(tuple(parts)))
        | st.lists(inner, min_size=2, max_size=3).map(lambda parts: Some(tuple(parts)))
    ),
    max_leaves=12,
)


def written(wanted: Filter) -> str:
    """A filter as text, with more parentheses than it needs."""
    match wanted:
        case Not(inside):
            return f"not ({written(inside)})"
        case All(parts):
            return " and ".join(f"({written(part)})" for part in parts)
        case Some(parts):
            return " or ".join(f"({written(part)})" for part in parts)
        case Comparison():
            field = ".".join([wanted.field, *map(quoted, wanted.key)])
            value = quoted(wanted.value) if isinstance(wanted.value, str) else repr(wanted.value)
            return f"{field} {wanted.operator} {value}"


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(filters)
def test_written_filter_is_read_as_it_was(wanted: Filter) -> None:
    assert parse_filter(written(wanted)) == wanted


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(Refusal):  # anything else fails the test
        parse_filter(text)

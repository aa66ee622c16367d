"""What a node came from and what came from it, and what of that others learn."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from harness import Account, statements
from run_records import new_run
from starlette.testclient import TestClient
from t9k.aistore.db import Database, nodes
from t9k.aistore.db.tables.tree import shares
from t9k.aistore.runs import lineage
from t9k.aistore.tree.views import visible_views


def node(database: Database, account: Account, name: str, kind: str = "Artifact") -> str:
    """Id of a new node in the account's folder `default`."""

    def work(connection: nodes.Connection) -> str:
        folder = nodes.descend(connection, ["default"], user_name=account.name)[-1]
        new = nodes.NewNode(folder.id, account.caller.user_id, kind, name)
        return nodes.insert(connection, new, 1)

    return database.write(work)


def share(database: Database, node_id: str, account: Account | None, access: str = "view") -> None:
    row = {
        "node_id": node_id,
        "grantee_kind": "public" if account is None else "user",
        "grantee_id": "" if account is None else account.caller.user_id,
        "access": access,
        "created_us": 1,
    }
    database.write(lambda connection: connection.execute(sa.insert(shares).values(row)))


def put(api: TestClient, account: Account, run_id: str, **sides: Any) -> None:
    response = api.put(f"/api/v1/runs/{run_id}/edges", json=sides, headers=account.headers)
    assert response.status_code == 204, response.text


def get(api: TestClient, account: Account | None, node_id: str, **query: Any) -> dict[str, Any]:
    headers = account.headers if account else {}
    response = api.get(f"/api/v1/nodes/{node_id}/lineage", params=query, headers=headers)
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def links(found: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(link["run"], link["side"], link["target"]) for link in found["links"]}


@pytest.fixture
def chain(api: TestClient, ada: Account, database: Database) -> dict[str, str]:
    """data -> prepare -> clean -> train -> model, where train also reads an external data set."""
    ids = {name: node(database, ada, name) for name in ("data", "clean", "model")}
    ids |= {name: new_run(api, ada, name) for name in ("prepare", "train")}
    put(api, ada, ids["prepare"], inputs=[{"id": ids["data"]}], outputs=[{"path": "/ada/default/clean"}])
    inputs = [{"id": ids["clean"]}, {"type": "Dataset", "name": "images/cifar10:v1"}]
    put(api, ada, ids["train"], inputs=inputs, outputs=[{"id": ids["model"]}])
    return ids


def expected(ids: dict[str, str], *named: tuple[str, str, str]) -> set[tuple[str, str, str]]:
    return {(ids[run], side, ids.get(target, target)) for run, side, target in named}


CIFAR = "external:Dataset:images/cifar10:v1"


def test_lineage_goes_both_ways(api: TestClient, ada: Account, chain: dict[str, str]) -> None:
    up = expected(chain, ("prepare", "input", "data"), ("prepare", "output", "clean"))
    down = expected(chain, ("train", "input", "clean"), ("train", "output", "model"))
    external = expected(chain, ("train", "input", CIFAR))
    assert links(get(api, ada, chain["clean"], direction="up")) == up
    assert links(get(api, ada, chain["clean"], direction="down")) == down
    assert links(get(api, ada, chain["clean"])) == up | down
    whole = get(api, ada, chain["model"])
    assert links(whole) == up | down | external
    assert whole["truncated"] is False
    by_key = {found["key"]: found for found in whole["nodes"]}
    assert set(by_key) == {*chain.values(), CIFAR}
    assert by_key[chain["data"]]["node"]["path"] == "/ada/default/data"
    assert (by_key[CIFAR]["type"], by_key[CIFAR]["name"]) == ("Dataset", "images/cifar10:v1")


def test_depth_and_count_are_capped_and_said(api: TestClient, ada: Account, chain: dict[str, str]) -> None:
    near = get(api, ada, chain["model"], depth=1)
    assert links(near) == expected(chain, ("train", "output", "model"))
    assert near["truncated"] is True
    assert get(api, ada, chain["data"], depth=4)["truncated"] is False
    few = get(api, ada, chain["model"], limit=2)
    assert (len(few["nodes"]), few["truncated"]) == (2, True)
    for query in ({"depth": 17}, {"depth": 0}, {"limit": 501}, {"direction": "sideways"}):
        url = f"/api/v1/nodes/{chain['model']}/lineage"
        assert api.get(url, params=query, headers=ada.headers).status_code == 400


def test_invisible_nodes_tell_nothing_and_end_the_way(
    api: TestClient, ada: Account, bob: Account, chain: dict[str, str], database: Database
) -> None:
    share(database, chain["train"], bob)
    found = get(api, bob, chain["train"])
    assert found["root"] == chain["train"]
    by_key = {item["key"]: item for item in found["nodes"]}
    hidden = {key for key in by_key if key.startswith("hidden:")}
    assert set(by_key) == {chain["train"], CIFAR} | hidden
    assert len(hidden) == 2
    for key in hidden:
        assert by_key[key] == {"key": key, "node": None, "type": None, "name": None}
    text = str(found)
    for name in ("data", "clean", "model", "prepare"):
        assert chain[name] not in text
        assert f"/{name}" not in text
    assert {(side, target in hidden) for _, side, target in links(found)} == {
        ("input", True),
        ("input", False),
        ("output", True),
    }


def test_trashed_nodes_are_hidden_also_from_their_owner(
    api: TestClient, ada: Account, chain: dict[str, str], database: Database
) -> None:
    database.write(lambda connection: nodes.trash(connection, chain["clean"], 5))
    found = get(api, ada, chain["train"])
    assert chain["clean"] not in str(found)
    assert sum(item["key"].startswith("hidden:") for item in found["nodes"]) == 1


def test_node_that_was_deleted_for_good_takes_its_links_along(
    api: TestClient, ada: Account, chain: dict[str, str], database: Database
) -> None:
    from t9k.aistore.db.tables.tree import nodes as table

    database.write(lambda connection: connection.execute(sa.delete(table).where(table.c.id == chain["prepare"])))
    assert links(get(api, ada, chain["clean"], direction="up")) == set()


def test_public_sees_the_lineage_of_what_is_public(
    api: TestClient, ada: Account, chain: dict[str, str], database: Database
) -> None:
    assert api.get(f"/api/v1/nodes/{chain['model']}/lineage").status_code == 404
    for name in ("model", "train"):
        share(database, chain[name], None)
    found = get(api, None, chain["model"])
    assert {item["key"] for item in found["nodes"] if item["node"]} == {chain["model"], chain["train"]}


def test_output_must_be_the_callers_to_change(
    api: TestClient, ada: Account, bob: Account, chain: dict[str, str], database: Database
) -> None:
    run_id = new_run(api, bob, "claim")
    url = f"/api/v1/runs/{run_id}/edges"

    def status(**sides: Any) -> int:
        return int(api.put(url, json=sides, headers=bob.headers).status_code)

    target = [{"id": chain["model"]}]
    by_path = [{"path": "/ada/default/model"}]
    assert [status(inputs=target), status(inputs=by_path), status(outputs=target)] == [404, 404, 404]
    share(database, chain["model"], bob)
    assert [status(inputs=target), status(inputs=by_path), status(outputs=target)] == [204, 204, 403]
    # Who made the run sees that bob's uses the model only if they may see bob's run.
    assert run_id not in str(get(api, ada, chain["model"], direction="down"))


def test_cycles_end(api: TestClient, ada: Account, database: Database) -> None:
    first, second = new_run(api, ada, "first"), new_run(api, ada, "second")
    data = node(database, ada, "data")
    put(api, ada, first, inputs=[{"id": data}, {"id": second}, {"id": first}], outputs=[{"id": data}])
    put(api, ada, second, inputs=[{"id": first}])
    found = get(api, ada, data, depth=16)
    assert {item["key"] for item in found["nodes"]} == {first, second, data}
    assert len(links(found)) == 5


def test_queries_do_not_grow_with_the_nodes(api: TestClient, ada: Account, database: Database) -> None:
    many = [node(database, ada, f"n{number}") for number in range(60)]
    runs = [new_run(api, ada, name) for name in ("few", "all")]
    put(api, ada, runs[0], inputs=[{"id": many[0]}])
    put(api, ada, runs[1], inputs=[{"id": node_id} for node_id in many])
    counts = []
    for run_id in runs:
        with statements(database) as sent:
            found = database.read(lambda connection, root=run_id: lineage.graph(connection, ada.caller, root, "up", 1))
        assert len(found.nodes) == 1 + len(found.links)
        counts.append(len(sent))
    assert counts[0] == counts[1]
    with statements(database) as sent:
        assert set(database.read(visible_views, ada.caller, many)) == set(many)
    assert len([one for one in sent if one != "BEGIN"]) == 4  # the ways up, their shares, the nodes and their labels

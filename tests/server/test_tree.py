"""Rename, move, copy, trash, shortcuts, sharing, as clients do them."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from harness import Account
from run_records import batch, new_run, put
from starlette.testclient import TestClient
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, subtrees
from t9k.aistore.db.tables.accounts import audit
from t9k.aistore.db.tables.runs import metric_blocks, metric_series
from t9k.aistore.db.tables.tree import nodes
from t9k.aistore.runs import records
from t9k.aistore.tree.trash import expire


class Client:
    """Requests of one user; a path stands for the node at it."""

    def __init__(self, api: TestClient, account: Account) -> None:
        self.api, self.account = api, account

    def ask(self, method: str, url: str, **arguments: Any) -> Any:
        headers = self.account.headers | arguments.pop("headers", {})
        return self.api.request(method, f"/api/v1{url}", headers=headers, **arguments)

    def at(self, path: str, **params: Any) -> Any:
        response = self.ask("GET", "/nodes", params={"path": path, **params})
        return response.json() if response.status_code == 200 else response.status_code

    def make(self, path: str) -> str:
        response = self.ask("POST", "/folders", json={"path": path, "parents": True})
        assert response.status_code == 201, response.text
        return str(response.json()["id"])

    def change(self, node_id: str, **changes: Any) -> Any:
        return self.ask("PATCH", f"/nodes/{node_id}", json=changes)

    def share(self, node_id: str, grantee: str, access: str) -> None:
        response = self.ask("PUT", f"/nodes/{node_id}/shares/{grantee}", json={"access": access})
        assert response.status_code == 200, response.text

    def names(self, path: str) -> list[str]:
        page = self.ask("GET", f"/nodes/{self.at(path)['id']}/children").json()
        return [node["name"] for node in page["nodes"]]


@pytest.fixture
def a(api: TestClient, ada: Account) -> Client:
    """Ada."""
    return Client(api, ada)


@pytest.fixture
def b(api: TestClient, bob: Account) -> Client:
    """Bob."""
    return Client(api, bob)


def test_rename_and_move_keep_the_id(a: Client) -> None:
    moved, target = a.make("/ada/x/y"), a.make("/ada/z")
    a.make("/ada/x/y/deep")
    response = a.change(moved, name="w", parent_id=target)
    assert (response.status_code, response.json()["path"], response.json()["version"]) == (200, "/ada/z/w", 2)
    assert a.at("/ada/z/w/deep")["kind"] == "Folder"
    assert a.at("/ada/x/y") == 404


def test_move_into_itself_is_refused(a: Client) -> None:
    top, below = a.make("/ada/x"), a.make("/ada/x/y/z")
    for parent in (top, below):
        response = a.change(top, parent_id=parent)
        assert (response.status_code, response.json()["kind"]) == (400, "invalid_input")


def test_move_to_a_taken_name_is_a_conflict(a: Client) -> None:
    a.make("/ada/x/n")
    second = a.make("/ada/y/n")
    assert a.change(second, parent_id=a.at("/ada/x")["id"]).status_code == 409
    assert a.change(second, parent_id=a.at("/ada/x")["id"], name="m").status_code == 200


def test_move_that_makes_a_tree_too_deep_is_refused(a: Client) -> None:
    deep, chain = a.make("/ada" + "/d" * 40), a.make("/ada/e" + "/f" * 22)
    assert chain
    assert a.change(a.at("/ada/e")["id"], parent_id=deep).status_code == 400
    assert a.change(a.at("/ada/e/f")["id"], parent_id=deep).status_code == 200


def test_root_cannot_be_renamed_moved_copied_or_deleted(a: Client) -> None:
    root, folder = a.at("/ada")["id"], a.make("/ada/x")
    assert a.change(root, name="eve").status_code == 409
    assert a.change(root, parent_id=folder).status_code == 409
    assert a.ask("DELETE", f"/nodes/{root}").status_code == 409
    assert a.ask("POST", f"/nodes/{root}/copy", json={"parent_id": folder}).status_code == 409


def test_if_match_of_an_older_version_is_412(a: Client) -> None:
    node = a.make("/ada/x")
    etag = a.ask("GET", f"/nodes/{node}").headers["etag"]
    assert a.ask("PATCH", f"/nodes/{node}", json={"description": "1"}, headers={"If-Match": etag}).status_code == 200
    for method, body in (("PATCH", {"description": "2"}), ("DELETE", None)):
        response = a.ask(method, f"/nodes/{node}", json=body, headers={"If-Match": f'{etag}, W/"2"'})
        assert (response.status_code, response.json()["kind"]) == (412, "conflict")
    assert a.ask("DELETE", f"/nodes/{node}", headers={"If-Match": '"2"'}).status_code == 204


def test_labels_and_description_are_kept(a: Client) -> None:
    node = a.make("/ada/x")
    seen = a.change(node, labels=["b", "a", "b"], description="<b>\n").json()
    assert (seen["labels"], seen["description"]) == (["b", "a"], "<b>\n")
    assert a.change(node, labels=["x" * 256]).status_code == 400
    assert a.change(node, labels=[str(i) for i in range(101)]).status_code == 400
    assert a.at("/ada/x")["labels"] == ["b", "a"]


def test_folder_ignores_case_only_if_no_names_clash(a: Client) -> None:
    folder = a.make("/ada/x")
    a.make("/ada/x/N")
    lower = a.make("/ada/x/n")
    assert a.change(folder, ignore_case=True).status_code == 409
    a.change(lower, name="m")
    assert a.change(folder, ignore_case=True).status_code == 200
    assert a.at("/ada/x/n")["name"] == "N"
    assert a.change(lower, name="n").status_code == 409
    assert a.change(lower, name="M").status_code == 200
    assert a.change(folder, ignore_case=False).status_code == 200
    assert a.at("/ada/x/n") == 404


def test_copy_takes_labels_and_all_below(a: Client) -> None:
    source, target = a.make("/ada/x"), a.make("/ada/y")
    a.make("/ada/x/p/q")
    a.change(a.at("/ada/x/p")["id"], labels=["l"], description="d")
    response = a.ask("POST", f"/nodes/{source}/copy", json={"parent_id": target})
    assert (response.status_code, response.json()["path"]) == (201, "/ada/y/x")
    copied = a.at("/ada/y/x/p")
    assert (copied["labels"], copied["description"], copied["version"]) == (["l"], "d", 1)
    assert a.at("/ada/y/x/p/q")["kind"] == "Folder"
    assert a.ask("POST", f"/nodes/{source}/copy", json={"parent_id": target}).status_code == 409
    into_itself = a.ask("POST", f"/nodes/{source}/copy", json={"parent_id": source, "name": "c"})
    assert (into_itself.status_code, a.names("/ada/x"), a.names("/ada/x/c")) == (201, ["c", "p"], ["p"])


def test_deleted_is_restored_with_all_below(a: Client) -> None:
    node = a.make("/ada/x")
    a.make("/ada/x/y")
    assert a.ask("DELETE", f"/nodes/{node}").status_code == 204
    assert (a.at("/ada/x"), a.at("/ada/x/y")) == (404, 404)
    assert a.ask("GET", f"/nodes/{node}").status_code == 404
    assert [seen["path"] for seen in a.ask("GET", "/trash").json()["nodes"]] == ["/ada/x"]
    assert a.ask("POST", f"/trash/{node}/restore").json()["path"] == "/ada/x"
    assert a.at("/ada/x/y")["kind"] == "Folder"
    assert a.ask("GET", "/trash").json()["nodes"] == []


def test_restore_under_a_taken_name_wants_another(a: Client) -> None:
    old = a.make("/ada/x")
    a.ask("DELETE", f"/nodes/{old}")
    a.make("/ada/x")
    response = a.ask("POST", f"/trash/{old}/restore")
    assert (response.status_code, response.json()["kind"]) == (409, "conflict")
    assert a.ask("POST", f"/trash/{old}/restore", json={"name": "x old"}).json()["path"] == "/ada/x old"


def test_restore_from_a_deleted_folder_wants_another(a: Client) -> None:
    outer, inner = a.make("/ada/x"), a.make("/ada/x/y")
    a.ask("DELETE", f"/nodes/{inner}")
    a.ask("DELETE", f"/nodes/{outer}")
    assert a.ask("POST", f"/trash/{inner}/restore").status_code == 409
    root = a.at("/ada")["id"]
    assert a.ask("POST", f"/trash/{inner}/restore", json={"parent_id": root}).json()["path"] == "/ada/y"
    a.ask("POST", f"/trash/{outer}/restore")
    assert a.names("/ada/x") == []


def test_trash_expires_in_pieces(a: Client, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t9k.aistore.tree.trash.REMOVED_AT_ONCE", 3)
    old, purged, fresh = a.make("/ada/old"), a.make("/ada/purged"), a.make("/ada/fresh")
    for i in range(8):
        a.make(f"/ada/old/{i % 3}/{i}")
    a.ask("DELETE", f"/nodes/{a.at('/ada/old/1')['id']}")  # goes with what it lies in
    for node in (old, purged, fresh):
        a.ask("DELETE", f"/nodes/{node}")
    earlier = now_us() - 31 * 86_400_000_000
    aged = sa.update(nodes).where(nodes.c.id == old).values(trashed_us=earlier)
    database.write(lambda connection: connection.execute(aged))
    assert a.ask("DELETE", f"/trash/{purged}").status_code == 204
    assert a.ask("POST", f"/trash/{purged}/restore").status_code == 404
    expire(database, trash_days=30)
    left = database.read(lambda connection: list(connection.execute(sa.select(nodes.c.name)).scalars()))
    assert sorted(left) == ["ada", "default", "fresh"]


def test_expiry_stops_when_asked(a: Client, database: Database) -> None:
    node = a.make("/ada/x")
    a.ask("DELETE", f"/nodes/{node}")
    a.ask("DELETE", f"/trash/{node}")
    assert expire(database, 30, is_stopping=lambda: True) == 0
    assert database.write(lambda connection: subtrees.remove_ended(connection, 1))


def test_share_reaches_down_and_edit_includes_view(a: Client, b: Client) -> None:
    folder, below = a.make("/ada/x"), a.make("/ada/x/y")
    a.share(folder, "user/bob", "view")
    assert b.at("/ada/x/y")["access"] == "view"
    assert b.change(below, description="b").status_code == 403
    assert b.ask("GET", f"/nodes/{below}/shares").status_code == 403
    a.share(folder, "user/bob", "edit")
    assert b.at("/ada/x/y")["access"] == "edit"
    assert b.change(below, description="b").status_code == 200
    assert b.ask("PUT", f"/nodes/{below}/shares/public/everybody", json={"access": "view"}).status_code == 403
    assert [node["path"] for node in b.ask("GET", "/shared").json()["nodes"]] == ["/ada/x"]
    assert a.ask("DELETE", f"/nodes/{folder}/shares/user/bob").status_code == 204
    assert a.ask("DELETE", f"/nodes/{folder}/shares/user/bob").status_code == 404
    assert b.at("/ada/x/y") == 404
    assert b.ask("GET", "/shared").json()["nodes"] == []


def test_share_with_the_public_lets_anonymous_view_never_edit(a: Client, b: Client, api: TestClient) -> None:
    folder = a.make("/ada/x")
    a.share(folder, "public/everybody", "edit")
    assert api.get(f"/api/v1/nodes/{folder}").json()["access"] == "view"
    assert api.patch(f"/api/v1/nodes/{folder}", json={"description": "x"}).status_code == 401
    assert b.at("/ada/x")["access"] == "edit"
    assert b.ask("GET", "/shared").json()["nodes"] == []


def test_moved_node_takes_the_permissions_of_its_new_folder(a: Client, b: Client) -> None:
    shared, private, node = a.make("/ada/shared"), a.make("/ada/private"), a.make("/ada/shared/n")
    a.share(shared, "user/bob", "view")
    assert b.at("/ada/shared/n")["id"] == node
    a.change(node, parent_id=private)
    assert b.ask("GET", f"/nodes/{node}").status_code == 404
    a.change(node, parent_id=shared)
    assert b.ask("GET", f"/nodes/{node}").status_code == 200


def test_only_the_owner_moves_a_node_to_another_user(a: Client, b: Client) -> None:
    shared, node = a.make("/ada/shared"), a.make("/ada/shared/n")
    a.make("/ada/shared/n/deep")
    a.share(shared, "user/bob", "edit")
    theirs = b.make("/bob/inbox")
    assert b.change(node, parent_id=theirs).status_code == 403
    b.share(theirs, "user/ada", "edit")
    assert a.change(node, parent_id=theirs).json()["path"] == "/bob/inbox/n"
    assert b.at("/bob/inbox/n/deep")["access"] == "own"
    assert a.at("/bob/inbox/n/deep")["access"] == "edit"


def test_editor_deletes_to_the_trash_of_the_owner(a: Client, b: Client) -> None:
    shared, node = a.make("/ada/shared"), a.make("/ada/shared/n")
    a.share(shared, "user/bob", "edit")
    assert b.ask("DELETE", f"/nodes/{node}").status_code == 204
    assert b.ask("GET", "/trash").json()["nodes"] == []
    assert [seen["id"] for seen in a.ask("GET", "/trash").json()["nodes"]] == [node]
    assert b.ask("DELETE", f"/trash/{node}").status_code == 403
    assert b.ask("POST", f"/trash/{node}/restore").status_code == 200


def test_shortcut_is_followed_with_the_rights_of_who_follows(a: Client, b: Client) -> None:
    secret, shared = a.make("/ada/secret"), a.make("/ada/shared")
    a.make("/ada/secret/below")
    made = a.ask("POST", "/shortcuts", json={"path": "/ada/shared/link", "target_id": secret})
    link = made.json()["id"]
    assert (made.status_code, made.json()["kind"], made.json()["target_id"]) == (201, "Shortcut", secret)
    a.share(shared, "user/bob", "edit")
    assert a.at("/ada/shared/link", follow=True)["id"] == secret
    assert a.at("/ada/shared/link/below")["path"] == "/ada/secret/below"
    assert a.names("/ada/shared/link") == ["below"]
    assert b.at("/ada/shared/link")["id"] == link
    assert b.at("/ada/shared/link", follow=True) == b.at("/ada/shared/link/below") == 404
    assert b.ask("GET", f"/nodes/{link}/target").status_code == 404
    assert b.ask("GET", f"/nodes/{link}/children").status_code == 409
    assert b.ask("POST", "/folders", json={"path": "/ada/shared/link/new"}).status_code == 404
    assert b.ask("POST", "/shortcuts", json={"path": "/bob/mine", "target_id": secret}).status_code == 404


def test_shortcut_dangles_harmlessly(a: Client) -> None:
    target = a.make("/ada/x")
    link = a.ask("POST", "/shortcuts", json={"path": "/ada/link", "target_id": target}).json()["id"]
    to_link = a.ask("POST", "/shortcuts", json={"path": "/ada/to link", "target_id": link}).json()
    assert to_link["target_id"] == target  # never a shortcut to a shortcut
    a.ask("DELETE", f"/nodes/{target}")
    assert (a.at("/ada/link", follow=True), a.at("/ada/link/y"), a.at("/ada/link")["id"]) == (404, 404, link)
    assert a.names("/ada") == ["default", "link", "to link"]
    a.ask("POST", f"/trash/{target}/restore")
    assert a.at("/ada/link", follow=True)["id"] == target


def test_security_relevant_changes_are_audited(a: Client, b: Client, database: Database) -> None:
    folder, node = a.make("/ada/x"), a.make("/ada/y")
    a.share(folder, "user/bob", "edit")
    a.ask("DELETE", f"/nodes/{folder}/shares/user/bob")
    a.change(node, parent_id=folder)
    a.ask("DELETE", f"/nodes/{node}")
    a.ask("DELETE", f"/trash/{node}")
    assert a.change(node, parent_id=folder).status_code == 404  # what is refused leaves nothing
    query = sa.select(audit).where(audit.c.actor_id == a.account.caller.user_id).order_by(audit.c.at_us)
    rows = database.read(lambda connection: list(connection.execute(query)))
    assert [row.action for row in rows] == ["share.grant", "share.revoke", "node.move", "node.purge"]
    assert rows[0].detail == {"grantee_kind": "user", "grantee": "bob", "access": "edit"}
    assert all(row.request_id for row in rows)


def test_copy_of_a_run_has_its_record_and_its_own_life(a: Client, api: TestClient, database: Database) -> None:
    run = new_run(api, a.account, "r", labels=["l"], hparams={"lr": 1})
    for sequence in range(3):
        put(api, a.account, run, "train", sequence, batch(sequence, 1, loss=[float(sequence)]))
    assert a.ask("PUT", f"/runs/{run}/log", params={"offset": 0}, content=b"hello").status_code < 300
    folder = a.make("/ada/copies")
    copied = a.ask("POST", f"/nodes/{run}/copy", json={"parent_id": folder}).json()["id"]
    again = a.ask("POST", f"/nodes/{run}/copy", json={"parent_id": folder, "name": "again"})
    assert again.status_code == 201
    a.ask("DELETE", f"/nodes/{run}")
    a.ask("DELETE", f"/trash/{run}")
    assert expire(database, 30) == 1
    assert a.ask("GET", f"/runs/{copied}").json()["hparams"] == {"lr": 1}
    assert a.ask("GET", f"/runs/{copied}/log").content == b"hello"
    points = sa.select(sa.func.sum(metric_blocks.c.points)).where(metric_blocks.c.node_id == copied)
    last = sa.select(metric_series.c.last).where(metric_series.c.node_id == copied)
    assert database.read(lambda connection: connection.execute(points).scalar()) == 3
    assert database.read(lambda connection: connection.execute(last).scalar()) == 2.0


def test_copy_of_a_running_run_stays_as_it_was_until_somebody_continues_it(a: Client, database: Database) -> None:
    run = new_run(a.api, a.account, "r")
    copied = a.ask("POST", f"/nodes/{run}/copy", json={"parent_id": a.make("/ada/copies")}).json()["id"]

    def states() -> tuple[str, str]:
        records.crash_silent(database, -1000.0)  # who has ever beaten was silent for so long
        first, second = (str(a.ask("GET", f"/runs/{node}").json()["state"]) for node in (run, copied))
        return first, second

    assert states() == ("Crashed", "Running")
    assert a.ask("GET", f"/runs/{copied}").json()["heartbeat"] is None
    assert a.ask("POST", f"/runs/{copied}/heartbeat").json()["state"] == "Running"
    assert states() == ("Crashed", "Crashed")
    assert a.ask("POST", f"/runs/{copied}/heartbeat").json()["state"] == "Running"


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "'; DROP TABLE nodes; --", "%00", "..", "\u202e", "x" * 5000, "<script>"]
)
def test_hostile_text_is_refused_or_kept_as_text(a: Client, text: str) -> None:
    folder = a.make("/ada/x")
    requests: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", "/nodes", {"params": {"path": f"/ada/{text}"}}),
        ("GET", "/nodes", {"params": {"path": text}}),
        ("GET", f"/nodes/{folder}/children", {"params": {"cursor": text}}),
        ("GET", f"/nodes/{folder}/children", {"params": {"filter": f'name = "{text}"'}}),
        ("GET", f"/nodes/{folder}/children", {"params": {"filter": f'param."{text}" = 1'}}),
        ("GET", "/shared", {"params": {"cursor": text}}),
        ("GET", "/trash", {"params": {"cursor": text}}),
        ("GET", "/keys", {"params": {"cursor": text}}),
        ("POST", "/folders", {"json": {"path": f"/ada/{text}/y", "parents": True}}),
        ("POST", "/shortcuts", {"json": {"path": f"/ada/{text}", "target_id": text}}),
        ("PATCH", f"/nodes/{folder}", {"json": {"name": text}}),
        ("PATCH", f"/nodes/{folder}", {"json": {"parent_id": text}}),
        ("PATCH", f"/nodes/{folder}", {"json": {"labels": [text], "description": text}}),
        ("POST", f"/nodes/{folder}/copy", {"json": {"parent_id": text, "name": text}}),
        ("POST", "/keys", {"json": {"name": text}}),
    ]
    for method, url, arguments in requests:
        response = a.ask(method, url, **arguments)
        assert response.status_code < 500, (method, url, arguments, response.text)
    node = a.ask("GET", f"/nodes/{folder}").json()
    assert node["name"] in ("x", text)
    assert node["description"] in ("", text)

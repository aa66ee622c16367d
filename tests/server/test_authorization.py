"""Every operation of the OpenAPI document, as every kind of caller. An operation without a line here fails the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from harness import Account, make_account, new_schema
from run_records import batch
from starlette.testclient import TestClient
from t9k.aistore.accounts import groups
from t9k.aistore.accounts.failures import FailureLimits
from t9k.aistore.accounts.users import add_key
from t9k.aistore.api.app import document, make_app
from t9k.aistore.clock import new_id
from t9k.aistore.db.tables import accounts, tree
from t9k.aistore.services import Services, open_services
from t9k.aistore.settings import Settings
from t9k.protocol.metric_batch import encode_batch
from uploads import Content, Uploader, digest, pack_name, pack_of

OK, UNKNOWN, FORBIDDEN, NO_KEY = "ok", 404, 403, 401

ROLES = ("anonymous", "revoked", "expired", "other", "viewer", "member", "editor", "owner", "reading", "admin")
"""Callers; all but `owner` are somebody else, `reading` is the owner with a key that may only read."""

EXPECTED: dict[str, dict[str, str | int]] = {
    "anybody": dict.fromkeys(ROLES, OK),
    "a key that reads": dict.fromkeys(ROLES, OK) | dict.fromkeys(("anonymous", "revoked", "expired"), NO_KEY),
    "view": dict.fromkeys(ROLES, OK)
    | dict.fromkeys(("anonymous", "other", "admin"), UNKNOWN)
    | dict.fromkeys(("revoked", "expired"), NO_KEY),
    "edit": dict.fromkeys(ROLES, OK)
    | dict.fromkeys(("other", "admin"), UNKNOWN)
    | dict.fromkeys(("viewer", "member", "reading"), FORBIDDEN)
    | dict.fromkeys(("anonymous", "revoked", "expired"), NO_KEY),
    "own": dict.fromkeys(ROLES, OK)
    | dict.fromkeys(("other", "admin"), UNKNOWN)
    | dict.fromkeys(("viewer", "member", "editor", "reading"), FORBIDDEN)
    | dict.fromkeys(("anonymous", "revoked", "expired"), NO_KEY),
    "own, to read": dict.fromkeys(ROLES, OK)
    | dict.fromkeys(("other", "admin"), UNKNOWN)
    | dict.fromkeys(("viewer", "member", "editor"), FORBIDDEN)
    | dict.fromkeys(("anonymous", "revoked", "expired"), NO_KEY),
    "a key that writes": dict.fromkeys(ROLES, OK)
    | dict.fromkeys(("reading",), FORBIDDEN)
    | dict.fromkeys(("anonymous", "revoked", "expired"), NO_KEY),
    "its own user": dict.fromkeys(ROLES, UNKNOWN)
    | dict.fromkeys(("anonymous", "revoked", "expired"), NO_KEY)
    | {"owner": OK, "reading": FORBIDDEN},
    "administer": dict.fromkeys(ROLES, FORBIDDEN)
    | dict.fromkeys(("anonymous", "revoked", "expired"), NO_KEY)
    | {"admin": OK},
}


@dataclass
class World:
    """A server with the owner's folder `shared`, which the viewer, the member's group and the editor reach."""

    services: Services
    client: TestClient
    owner: Account
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    folder_id: str = ""
    group_id: str = ""
    counter: int = 0

    def fresh(self) -> str:
        """A name that is not taken."""
        self.counter += 1
        return f"n{self.counter}"

    def as_owner(self, method: str, url: str, **arguments: Any) -> dict[str, Any]:
        """What the owner gets; it must be a success."""
        response = self.client.request(method, f"/api/v1{url}", headers=self.owner.headers, **arguments)
        assert response.status_code < 300, response.text
        found: dict[str, Any] = response.json() if response.content else {}
        return found

    def new_folder(self) -> str:
        """Id of a new folder below the shared one."""
        body = {"path": f"/owner/shared/{self.fresh()}"}
        return str(self.as_owner("POST", "/folders", json=body)["id"])

    def new_trash(self) -> str:
        """Id of a folder that was below the shared one and is in the trash."""
        folder_id = self.new_folder()
        self.as_owner("DELETE", f"/nodes/{folder_id}")
        return folder_id

    def new_key(self) -> str:
        """Prefix of a new key of the owner."""
        return add_key(self.services.database, "owner", "new", ("read",)).prefix

    def new_group(self) -> str:
        """Name of a new group with the owner in it."""
        name = self.fresh()
        self.services.database.write(lambda connection: groups.add_group(connection, None, name))
        self.services.database.write(lambda connection: groups.add_member(connection, None, name, "owner"))
        return name

    def new_shared(self) -> str:
        """Id of a folder below the shared one that is shared with `revoked` too."""
        folder_id = self.new_folder()
        self.as_owner("PUT", f"/nodes/{folder_id}/shares/user/revoked", json={"access": "view"})
        return folder_id

    def new_artifact(self, versions: int = 1) -> str:
        """Id of a new artifact below the shared folder, with one chunk in a pack."""
        uploader, name = Uploader(self.client, self.owner), self.fresh()
        place = {"folder": "/owner/shared", "name": name, "alternative_name": None, "conflict_strategy": "error"}
        made = uploader.upload(Content({"a": [ARTIFACT_CHUNK]}), placement=place)
        for number in range(1, versions):
            more = uploader.commit(Content({f"b{number}": [ARTIFACT_CHUNK]}), artifact_id=made["node"]["id"])
            assert more.status_code == 201
        return str(made["node"]["id"])

    def commit(self) -> dict[str, Any]:
        """The arguments of a commit of an empty artifact into the shared folder."""
        sent: dict[str, Any] = {}

        class Recorder(Uploader):
            def call(self, method: str, path: str, **arguments: Any) -> Any:
                sent.update(arguments)

        place = {"folder": "/owner/shared", "name": self.fresh(), "conflict_strategy": "error"}
        Recorder(self.client, self.owner).commit(Content({}), key=self.fresh(), placement=place)
        return sent

    def new_run(self) -> dict[str, Any]:
        """Node of a new run in the shared folder."""
        node: dict[str, Any] = self.as_owner("POST", "/runs", json=new_run(self.fresh()))["node"]
        return node

    def run_with_metrics(self) -> str:
        """Id of a new run in the shared folder that has a point of type `train`."""
        run_id = str(self.new_run()["id"])
        content = encode_batch(batch(0, 1, loss=[1.0]))
        self.as_owner("PUT", f"/runs/{run_id}/metrics/train/0", params={"session": "s"}, content=content)
        return run_id


ARTIFACT_CHUNK = b"the only chunk"


def new_run(name: str) -> dict[str, Any]:
    """The body that makes a run in the shared folder."""
    return {"client_id": name, "placement": {"folder": "/owner/shared", "name": name}}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One server for all requests: nothing that one caller does may change what another may."""
    opened = ExitStack()
    url = None
    if request.param == "postgresql":
        url = opened.enter_context(new_schema(request.getfixturevalue("postgresql")))
    services = open_services(Settings(data_dir=tmp_path_factory.mktemp("matrix"), database_url=url))
    services.failures = FailureLimits(burst=1e9)  # 401 for every bad key, however many there were
    database = services.database
    owner = make_account(database, "owner")
    made = World(services, TestClient(make_app(services), raise_server_exceptions=False), owner)
    made.folder_id = str(made.as_owner("POST", "/folders", json={"path": "/owner/shared"})["id"])
    others = {
        name: make_account(database, name) for name in ("other", "viewer", "member", "editor", "revoked", "expired")
    }
    made.headers = {name: account.headers for name, account in others.items()}
    made.headers |= {"anonymous": {}, "owner": owner.headers}
    made.headers["admin"] = make_account(database, "admin", "admin").headers
    made.headers["reading"] = {"Authorization": f"Bearer {add_key(database, 'owner', 'reading', ('read',)).text}"}
    made.group_id = new_id()

    def fill(connection: sa.Connection) -> None:
        for name, column in (("revoked", "revoked_us"), ("expired", "expires_us")):
            ended = accounts.api_keys.c.id == others[name].caller.key_id
            connection.execute(sa.update(accounts.api_keys).where(ended).values({column: 1}))
        group = {"id": made.group_id, "name": "readers", "created_us": 1}
        connection.execute(sa.insert(accounts.groups).values(group))
        member = {"group_id": made.group_id, "user_id": others["member"].caller.user_id}
        connection.execute(sa.insert(accounts.group_members).values(member))
        grants = [
            ("user", others["viewer"].caller.user_id, "view"),
            ("group", made.group_id, "view"),
            ("user", others["editor"].caller.user_id, "edit"),
        ]
        for kind, grantee, access in grants:
            row = {
                "node_id": made.folder_id,
                "grantee_kind": kind,
                "grantee_id": grantee,
                "access": access,
                "created_us": 1,
            }
            connection.execute(sa.insert(tree.shares).values(row))

    database.write(fill)
    yield made
    made.client.close()
    services.close()
    opened.close()


Request = tuple[str, str, dict[str, Any]]
"""Method, URL below the API's prefix (or with `^` from the root), more arguments of the client."""

Build = Callable[[World], Request]


def artifact_path(world: World) -> str:
    return str(world.as_owner("GET", f"/nodes/{world.new_artifact()}")["path"])


def aliased(world: World) -> str:
    node_id = world.new_artifact()
    world.as_owner("PUT", f"/artifacts/{node_id}/aliases/best", json={"version": 1})
    return node_id


OPERATIONS: dict[str, tuple[str, Build]] = {
    "healthz": ("anybody", lambda world: ("GET", "^/healthz", {})),
    "readyz": ("anybody", lambda world: ("GET", "^/readyz", {})),
    "get_metrics": ("anybody", lambda world: ("GET", "^/metrics", {})),
    "get_session": ("a key that reads", lambda world: ("GET", "/session", {})),
    "get_node_at": ("view", lambda world: ("GET", "/nodes", {"params": {"path": "/owner/shared"}})),
    "get_node": ("view", lambda world: ("GET", f"/nodes/{world.folder_id}", {})),
    "list_children": ("view", lambda world: ("GET", f"/nodes/{world.folder_id}/children", {})),
    "post_run": ("edit", lambda world: ("POST", "/runs", {"json": new_run(world.fresh())})),
    "get_run_at": ("view", lambda world: ("GET", "/runs", {"params": {"path": world.new_run()["path"]}})),
    "get_run": ("view", lambda world: ("GET", f"/runs/{world.new_run()['id']}", {})),
    "patch_run": ("edit", lambda world: ("PATCH", f"/runs/{world.new_run()['id']}", {"json": {"git": {}}})),
    "post_heartbeat": ("edit", lambda world: ("POST", f"/runs/{world.new_run()['id']}/heartbeat", {})),
    "put_edges": ("edit", lambda world: ("PUT", f"/runs/{world.new_run()['id']}/edges", {"json": {"inputs": []}})),
    "put_log": (
        "edit",
        lambda world: ("PUT", f"/runs/{world.new_run()['id']}/log", {"params": {"offset": 0}, "content": b"x"}),
    ),
    "get_log": ("view", lambda world: ("GET", f"/runs/{world.new_run()['id']}/log", {})),
    "put_metrics": (
        "edit",
        lambda world: (
            "PUT",
            f"/runs/{world.new_run()['id']}/metrics/train/0",
            {"params": {"session": "s"}, "content": encode_batch(batch(0, 1, loss=[1.0]))},
        ),
    ),
    "get_target": ("view", lambda world: ("GET", f"/nodes/{world.folder_id}/target", {})),
    "patch_node": ("edit", lambda world: ("PATCH", f"/nodes/{world.new_folder()}", {"json": {"labels": ["a"]}})),
    "delete_node": ("edit", lambda world: ("DELETE", f"/nodes/{world.new_folder()}", {})),
    "copy_node": (
        "edit",
        lambda world: (
            "POST",
            f"/nodes/{world.new_folder()}/copy",
            {"json": {"parent_id": world.folder_id, "name": world.fresh()}},
        ),
    ),
    "post_shortcut": (
        "edit",
        lambda world: (
            "POST",
            "/shortcuts",
            {"json": {"path": f"/owner/shared/{world.fresh()}", "target_id": world.folder_id}},
        ),
    ),
    "list_trash": ("a key that reads", lambda world: ("GET", "/trash", {})),
    "restore_node": ("edit", lambda world: ("POST", f"/trash/{world.new_trash()}/restore", {})),
    "purge_node": ("own", lambda world: ("DELETE", f"/trash/{world.new_trash()}", {})),
    "list_shares": ("own, to read", lambda world: ("GET", f"/nodes/{world.folder_id}/shares", {})),
    "put_share": (
        "own",
        lambda world: ("PUT", f"/nodes/{world.new_folder()}/shares/user/other", {"json": {"access": "view"}}),
    ),
    "delete_share": ("own", lambda world: ("DELETE", f"/nodes/{world.new_shared()}/shares/user/revoked", {})),
    "list_keys": ("a key that reads", lambda world: ("GET", "/keys", {})),
    "post_key": ("a key that writes", lambda world: ("POST", "/keys", {"json": {"name": "k", "scopes": ["read"]}})),
    "delete_key": (
        "its own user",
        lambda world: ("DELETE", f"/keys/{world.new_key()}", {}),
    ),
    "list_users": ("administer", lambda world: ("GET", "/users", {})),
    "post_user": ("administer", lambda world: ("POST", "/users", {"json": {"name": world.fresh()}})),
    "get_user": ("administer", lambda world: ("GET", "/users/other", {})),
    "patch_user": ("administer", lambda world: ("PATCH", "/users/other", {"json": {"disabled": False}})),
    "list_user_keys": ("administer", lambda world: ("GET", "/users/other/keys", {})),
    "post_user_key": ("administer", lambda world: ("POST", "/users/revoked/keys", {"json": {"name": "k"}})),
    "delete_user_key": ("administer", lambda world: ("DELETE", f"/users/owner/keys/{world.new_key()}", {})),
    "list_groups": ("administer", lambda world: ("GET", "/groups", {})),
    "post_group": ("administer", lambda world: ("POST", "/groups", {"json": {"name": world.fresh()}})),
    "get_group": ("administer", lambda world: ("GET", "/groups/readers", {})),
    "delete_group": ("administer", lambda world: ("DELETE", f"/groups/{world.new_group()}", {})),
    "put_member": ("administer", lambda world: ("PUT", f"/groups/{world.new_group()}/members/other", {})),
    "delete_member": ("administer", lambda world: ("DELETE", f"/groups/{world.new_group()}/members/owner", {})),
    "list_audit": ("administer", lambda world: ("GET", "/audit", {})),
    "list_shared": ("a key that reads", lambda world: ("GET", "/shared", {})),
    "get_run_metrics": ("view", lambda world: ("GET", f"/runs/{world.new_run()['id']}/metrics", {})),
    "get_session_stored": ("view", lambda world: ("GET", f"/runs/{world.run_with_metrics()}/sessions/s", {})),
    "get_points": ("view", lambda world: ("GET", f"/runs/{world.run_with_metrics()}/metrics/train", {})),
    "get_chart": (
        "view",
        lambda world: ("GET", f"/runs/{world.run_with_metrics()}/metrics/train/buckets", {"params": {"width": 10}}),
    ),
    "get_lineage": ("view", lambda world: ("GET", f"/nodes/{world.new_run()['id']}/lineage", {})),
    "post_folder": (
        "edit",
        lambda world: ("POST", "/folders", {"json": {"path": f"/owner/shared/{world.fresh()}"}}),
    ),
    "plan_upload": ("a key that writes", lambda world: ("POST", "/artifacts/plan", {"content": bytes(40)})),
    "find_missing": ("a key that writes", lambda world: ("POST", "/artifacts/missing", {"content": bytes(32)})),
    "put_pack": (
        "a key that writes",
        lambda world: ("PUT", f"/packs/{pack_name(pack_of([b'x'])).hex()}", {"content": pack_of([b"x"])}),
    ),
    "commit_artifact": ("edit", lambda world: ("POST", "/artifacts/commit", world.commit())),
    "get_artifact": (
        "view",
        lambda world: ("GET", "/artifacts", {"params": {"path": artifact_path(world)}}),
    ),
    "list_holders": (
        "a key that reads",
        lambda world: ("GET", f"/objects/{digest(ARTIFACT_CHUNK).hex()}/artifacts", {}),
    ),
    "get_version": ("view", lambda world: ("GET", f"/artifacts/{world.new_artifact()}", {})),
    "list_versions": ("view", lambda world: ("GET", f"/artifacts/{world.new_artifact()}/versions", {})),
    "get_manifest": ("view", lambda world: ("GET", f"/artifacts/{world.new_artifact()}/manifest", {})),
    "describe_objects": (
        "view",
        lambda world: ("POST", f"/artifacts/{world.new_artifact()}/objects", {"content": digest(ARTIFACT_CHUNK)}),
    ),
    "locate_chunks": (
        "view",
        lambda world: ("POST", f"/artifacts/{world.new_artifact()}/locate", {"content": digest(ARTIFACT_CHUNK)}),
    ),
    "get_pack": (
        "view",
        lambda world: (
            "GET",
            f"/packs/{pack_name(pack_of([ARTIFACT_CHUNK])).hex()}",
            {"params": {"artifact": world.new_artifact()}},
        ),
    ),
    "put_alias": (
        "edit",
        lambda world: ("PUT", f"/artifacts/{world.new_artifact()}/aliases/best", {"json": {"version": 1}}),
    ),
    "delete_alias": (
        "edit",
        lambda world: ("DELETE", f"/artifacts/{aliased(world)}/aliases/best", {}),
    ),
    "pin_version": (
        "edit",
        lambda world: ("PATCH", f"/artifacts/{world.new_artifact()}/versions/1", {"json": {"pinned": True}}),
    ),
    "delete_version": ("edit", lambda world: ("DELETE", f"/artifacts/{world.new_artifact(2)}/versions/1", {})),
    "get_retention": ("view", lambda world: ("GET", f"/artifacts/{world.new_artifact()}/retention", {})),
    "put_retention": (
        "edit",
        lambda world: (
            "PUT",
            f"/artifacts/{world.new_artifact()}/retention",
            {"json": {"keep_last": 3, "ttl_s": None}},
        ),
    ),
}
"""What each operation needs of its caller, and a request of it that the owner may make."""


def described() -> set[str]:
    return {operation["operationId"] for item in document()["paths"].values() for operation in item.values()}


def test_every_operation_has_a_line() -> None:
    assert described() == set(OPERATIONS)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation", sorted(OPERATIONS))
def test_caller_gets_what_the_operation_allows(world: World, operation: str, role: str) -> None:
    need, build = OPERATIONS[operation]
    method, url, arguments = build(world)
    full_url = url[1:] if url.startswith("^") else f"/api/v1{url}"
    headers = arguments.pop("headers", {}) | world.headers[role]
    response = world.client.request(method, full_url, headers=headers, **arguments)
    expected = EXPECTED[need][role]
    if expected == OK:
        assert response.status_code < 300, response.text
    else:
        assert response.status_code == expected, response.text
        assert response.json()["kind"] == ("not_found" if expected == UNKNOWN else "auth")

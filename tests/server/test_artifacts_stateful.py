"""Uploads, commits, deletions and collections in any order, against a model of what must be readable."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa
from harness import make_account, new_schema
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from starlette.testclient import TestClient
from t9k.aistore.api.app import make_app
from t9k.aistore.artifacts.check import check
from t9k.aistore.artifacts.gc import collect
from t9k.aistore.artifacts.verification import check_objects
from t9k.aistore.db.tables import artifacts as tables
from t9k.aistore.db.tables import tree
from t9k.aistore.services import open_services
from t9k.aistore.settings import Settings
from uploads import Content, Uploader, digest, noise, pack_of, table_of

POOL = [noise(number, 40 + number) for number in range(6)]
"""Few chunks, so that artifacts share them in all ways."""

CONTENTS = st.dictionaries(
    st.sampled_from(["a", "b", "c"]), st.lists(st.sampled_from(POOL), min_size=1, max_size=3), max_size=3
).map(Content)
USERS = st.sampled_from(["ada", "bob"])


class ArtifactsMachine(RuleBasedStateMachine):
    """Whatever happens, what was committed is read back, and nobody is told of what others have."""

    cluster: str | None = None
    """Where each machine has a database of its own; None is SQLite."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = ExitStack()
        url = self.opened.enter_context(new_schema(self.cluster)) if self.cluster else None
        self.directory = Path(tempfile.mkdtemp(prefix="stateful-"))
        self.services = open_services(Settings(data_dir=self.directory, database_url=url))
        self.client = TestClient(make_app(self.services), raise_server_exceptions=False)
        self.users = {
            name: Uploader(self.client, make_account(self.services.database, name)) for name in ("ada", "bob")
        }
        self.sent: dict[str, set[bytes]] = {"ada": set(), "bob": set()}  # each chunk that was ever sent
        self.held: dict[str, set[bytes]] = {"ada": set(), "bob": set()}  # under a lease that lives
        self.alive: dict[str, tuple[str, Content]] = {}  # owner and content by node

    def teardown(self) -> None:
        self.client.close()
        self.services.close()
        self.opened.close()
        shutil.rmtree(self.directory)

    @rule(user=USERS, chunks=st.lists(st.sampled_from(POOL), min_size=1, max_size=4, unique=True))
    def send(self, user: str, chunks: list[bytes]) -> None:
        response = self.users[user].put(pack_of(chunks))
        assert response.status_code in (200, 201), response.text
        self.sent[user] |= set(chunks)
        self.held[user] |= set(chunks)

    @rule(user=USERS)
    def ask_what_is_missing(self, user: str) -> None:
        gone = set(self.users[user].missing(POOL))
        there = set(POOL) - gone
        assert there <= self.sent[user]
        needed = {chunk for owner, content in self.alive.values() if owner == user for chunk in content.chunks}
        assert needed | self.held[user] <= there
        self.held[user] |= there

    @rule(user=USERS, content=CONTENTS, is_lie=st.booleans())
    def commit(self, user: str, content: Content, is_lie: bool) -> None:
        """With the chunks that are there; a lie turns the chunks of its longest object round."""
        tables_of = {}
        for name, chunks in content.objects.items():
            if is_lie and len(chunks) > 1 and chunks != chunks[::-1]:
                tables_of[name] = table_of(chunks[::-1])
        wish = Content(content.files, tables_of)
        response = self.users[user].commit(wish)
        if response.status_code == 409:
            named = {bytes.fromhex(name) for name in response.json()["missing"]}
            assert named
            assert not named & set(map(digest, self.held[user]))
        elif response.status_code == 422:
            assert tables_of, response.text
        else:
            assert response.status_code == 201, response.text
            assert set(content.chunks) <= self.sent[user]
            if not tables_of:
                self.alive[response.json()["node"]["id"]] = (user, content)

    @rule(data=st.data(), with_copy=st.booleans())
    def delete(self, data: st.DataObject, with_copy: bool) -> None:
        """For good; before it, perhaps, a copy to the same user's tree, which must stay."""
        if not self.alive:
            return
        node_id = data.draw(st.sampled_from(sorted(self.alive)))
        user, content = self.alive.pop(node_id)
        uploader = self.users[user]
        if with_copy:
            folder = uploader.call("GET", "/nodes", params={"path": f"/{user}/default"}).json()["id"]
            body = {"parent_id": folder, "name": f"copy-{node_id}"}
            copied = uploader.call("POST", f"/nodes/{node_id}/copy", json=body)
            assert copied.status_code == 201, copied.text
            self.alive[copied.json()["id"]] = (user, content)
        gone = sa.delete(tree.nodes).where(tree.nodes.c.id == node_id)
        self.services.database.write(lambda connection: connection.execute(gone))

    @rule(user=USERS)
    def end_lease(self, user: str) -> None:
        uploader = self.users[user]
        ended = sa.update(tables.leases).where(tables.leases.c.user_id == uploader.account.caller.user_id)
        self.services.database.write(lambda connection: connection.execute(ended.values(expires_us=1)))
        uploader.lease = None
        self.held[user] = set()

    @rule()
    def hash_objects(self) -> None:
        check_objects(self.services.database, self.services.blobs)

    @rule(grace_s=st.sampled_from([-10, 1000]), lease_s=st.sampled_from([-10, 1000]))
    def collect_garbage(self, grace_s: int, lease_s: int) -> None:
        collect(self.services.database, self.services.blobs, lease_s=lease_s, grace_s=grace_s)

    @rule(data=st.data())
    def download(self, data: st.DataObject) -> None:
        if self.alive:
            node_id = data.draw(st.sampled_from(sorted(self.alive)))
            self.read(node_id)

    def read(self, node_id: str) -> None:
        user, content = self.alive[node_id]
        expected = {name: b"".join(chunks) for name, chunks in content.objects.items()}
        assert self.users[user].download(node_id) == expected

    @invariant()
    def database_and_blobs_agree(self) -> None:
        problems = check(self.services.database, self.services.blobs, read=True)
        assert [problem for problem in problems if problem.is_loss] == []


@pytest.fixture(params=["sqlite", "postgresql"])
def machine_type(request: pytest.FixtureRequest) -> type[ArtifactsMachine]:
    """The machine on either database."""
    cluster = request.getfixturevalue("postgresql") if request.param == "postgresql" else None
    return type("Machine", (ArtifactsMachine,), {"cluster": cluster})


def test_artifacts_are_what_the_model_says(machine_type: type[ArtifactsMachine]) -> None:
    limits = settings(
        max_examples=20 if machine_type.cluster is None else 8,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine_type, settings=limits)  # type: ignore[no-untyped-call]


def test_all_artifacts_of_a_long_run_are_readable(machine_type: type[ArtifactsMachine]) -> None:
    """One long run by hand, which the machine's runs are too short for: churn, then read all."""
    machine = machine_type()
    try:
        for turn in range(60):
            user = ("ada", "bob")[turn % 2]
            chunks = [POOL[(turn * step) % len(POOL)] for step in (1, 2, 5)]
            machine.send(user, list(dict.fromkeys(chunks)))
            machine.commit(user, Content({f"{turn}": chunks, "x": chunks[:1]}), is_lie=turn % 7 == 0)
            if turn % 5 == 0:
                machine.end_lease(user)
            if turn % 3 == 0:
                machine.hash_objects()
                machine.collect_garbage(-10, -10)
            if turn % 4 == 0 and machine.alive:
                node_id = min(machine.alive)
                machine.alive.pop(node_id)
                gone = sa.delete(tree.nodes).where(tree.nodes.c.id == node_id)
                machine.services.database.write(lambda connection, gone=gone: connection.execute(gone))
        for node_id in machine.alive:
            machine.read(node_id)
        machine.database_and_blobs_agree()
    finally:
        machine.teardown()

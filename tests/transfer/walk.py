"""A random walk of users' machines, a server and both garbage collectors, compared with a `World` at every step.

One number, the seed, decides all steps, so a walk that failed is walked again up to the same step. Hypothesis would
shrink it, but spends most of its time on drawing: it makes a few steps a second where this makes dozens.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from harness import make_account, run_server
from machines import Machine
from t9k.aistore.db import turns
from t9k.aistore.services import open_services
from t9k.aistore.settings import Settings
from t9k.em.client.session import Session
from t9k.em.errors import EmError
from tree_model import Node, Refused
from world import World

T = TypeVar("T")

USERS = ("ada", "bob", "cyd")
LONG_S = 10
"""After so long a step, connections may have ended in a way that only repeatable requests recover from."""

TOLD_STEPS = 1000
"""A long walk says where it is."""

MANY_NODES = 50
"""More are deleted sooner."""

ENDING = ("delete", "purge")


class Walk:
    """The machines, the server, and what they must be like."""

    DEEP = 12

    def __init__(self, directory: Path, database_url: str | None, seed: int) -> None:
        self.chance = random.Random(seed)
        self.directory = directory
        self.data, self.database_url = directory / "aistore", database_url
        self.log: deque[str] = deque(maxlen=40)
        self.done: Counter[str] = Counter()
        self.number = 0
        self.passed_s = 0.0
        self.services = open_services(Settings(data_dir=self.data, database_url=database_url))
        # The walk takes the collector's turns, so that it knows what was collected when.
        for job in ("collect-garbage", "sweep-orphans"):
            self.services.database.write(turns.take, job, 1 << 60, 0)
        self.accounts = {name: make_account(self.services.database, name) for name in USERS}
        self.domains = {name: account.caller.domain for name, account in self.accounts.items()}
        self.root = make_account(self.services.database, "root", "admin")
        self.port = 0
        self.stack = contextlib.ExitStack()
        self.start()
        self.machines = [
            Machine(user, directory / f"{user}{number}", self.session(self.accounts[user].key, user))
            for user in USERS
            for number in range(2)
        ]
        self.admin = self.session(self.root.key, "root")
        self.anonymous = self.session(None, "")
        self.world = World()
        self.world.groups = {"@team": {"ada", "bob"}}
        self.call(self.admin, "POST", "/groups", json={"name": "team"})
        for user in ("ada", "bob"):
            self.call(self.admin, "PUT", f"/groups/team/members/{user}")
        for user in USERS:
            root = self.find(user, f"/{user}")
            self.world.nodes[root] = Node(root, None, user, "Folder", user)
            default = self.find(user, f"/{user}/default")
            self.world.nodes[default] = Node(default, root, user, "Folder", "default")
        self.blocks = [self.chance.randbytes(90_000) for _ in range(8)]
        self.pool = [self.new_bytes() for _ in range(24)]

    # The server.

    def start(self) -> None:
        """At the same port each time."""
        options = ("--port", str(self.port))
        running = run_server(self.data, self.database_url, *options, log=self.server_log)
        self.serving = self.stack.enter_context(running)
        self.port = int(self.serving.url.rpartition(":")[2])

    @property
    def server_log(self) -> Path:
        return self.directory / "server.log"

    def stop(self, *, kill: bool) -> None:
        if kill:
            self.serving.process.kill()
        self.stack.close()

    def close(self) -> None:
        self.stop(kill=False)
        self.services.close()
        for session in (self.admin, self.anonymous, *(machine.session for machine in self.machines)):
            session.close()

    def session(self, key: str | None, user: str) -> Session:
        session = Session.open(self.serving.url, key, read_timeout_s=3600)
        session.user = user
        session.attempts = 60  # a server that was killed comes back, on a slow machine after longer than users wait
        return session

    def call(self, session: Session, method: str, path: str, **arguments: Any) -> Any:
        """One request; once more if the server says that it did not come in time, for the machine may stand still."""
        answer = session.request(method, path, f"{method} {path}", accept={408}, **arguments)
        if answer.status == 408:
            answer = session.request(method, path, f"{method} {path}", **arguments)
        return answer.json() if answer.body else None

    def session_of(self, user: str) -> Session:
        return next((one.session for one in self.machines if one.user == user), self.anonymous)

    def find(self, user: str, path: str) -> str:
        return str(self.call(self.session_of(user), "GET", "/nodes", params={"path": path})["id"])

    # The walk.

    def go(self, weights: Mapping[Callable[[Walk], None], float], steps: int) -> None:
        """So many steps more."""
        at_s = time.monotonic()
        for _ in range(steps):
            self.number += 1
            if time.monotonic() - at_s > LONG_S:
                for session in (self.admin, self.anonymous, *(machine.session for machine in self.machines)):
                    session.close()
            at_s = time.monotonic()
            is_full = len(self.world.nodes) > MANY_NODES
            chosen = [weight * (4 if is_full and step.__name__ in ENDING else 1) for step, weight in weights.items()]
            step = self.chance.choices(list(weights), chosen)[0]
            self.done[step.__name__] += 1
            self.say(step.__name__)
            step(self)
            if self.number % TOLD_STEPS == 0:
                print(f"step {self.number}", flush=True)

    def say(self, text: str) -> None:
        self.log.append(f"{self.number}: {text}")

    def now_s(self) -> float:
        return time.time() + self.passed_s

    def both(self, expected: Callable[[], object], work: Callable[[], T]) -> T | None:
        """Does something in the world and on the server, and compares how it ends; None if it is refused."""
        wanted, value = "ok", None
        try:
            expected()
        except Refused as refused:
            wanted = str(refused)
        got = "ok"
        try:
            value = work()
        except EmError as error:
            got = error.kind
            self.say(f"  {error}")
        assert got == wanted, f"{got}, and not {wanted}"
        return value if got == "ok" else None

    def machine(self, *, with_artifacts: bool = False) -> Machine | None:
        found = [one for one in self.machines if one.artifacts or not with_artifacts]
        if not found:
            return None
        machine = self.chance.choice(found)
        machine.enter()
        return machine

    def pick(self, *kinds: str) -> Node:
        """A node: mostly one that is there and no user's root."""
        kinds = kinds or ("Folder", "Artifact", "Shortcut")
        usual = [node for node in self.world.live(*kinds) if node.parent is not None]
        if usual and self.chance.random() < 0.9:
            return self.chance.choice(usual)
        return self.chance.choice(list(self.world.nodes.values()))

    def folder(self) -> Node:
        return self.chance.choice([one for one in self.world.live("Folder") if len(self.world.chain(one)) < self.DEEP])

    def user(self, node: Node) -> str:
        """Mostly the owner: most of what the others try is refused."""
        return node.owner if self.chance.random() < 0.6 else self.chance.choice(USERS)

    def height(self, node: Node) -> int:
        """How many nodes lie one below the other."""
        below = [one for one in self.world.nodes.values() if one.parent == node.id]
        return 1 + max((self.height(one) for one in below), default=0)

    def new_bytes(self) -> bytes:
        size = self.chance.choice((0, 1, 1_000, 30_000, -2, -5))
        if size >= 0:
            return self.chance.randbytes(size)
        return b"".join(self.chance.choices(self.blocks, k=-size))  # more than one chunk, and some of others'

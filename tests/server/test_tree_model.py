"""The tree against a model in plain dictionaries: several users share, move, rename, delete, restore and copy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from harness import make_account
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.contents import COPIERS
from t9k.aistore.db import Database
from t9k.aistore.errors import Refusal
from t9k.aistore.tree import changes, copies, folders, listing, sharing, shortcuts, trash
from t9k.aistore.tree.access import Access, node_at, node_for
from t9k.aistore.tree.placement import Placement, place
from tree_model import Model, Node, Refused

NAMES = ("a", "b", "c", "A")
KINDS = ("Folder", "Shortcut", "Artifact")
_numbers = itertools.count()


class TreeMachine(RuleBasedStateMachine):
    """Every rule asks the model what must happen, does it in the database, and compares."""

    database: Database

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        number = next(_numbers)
        self.callers: dict[str, Caller] = {}
        for letter in "pqr":
            name = f"{letter}{number}"
            self.callers[name] = make_account(self.database, name).caller
            root = self.database.read(lambda c, name=name: node_at(c, self.callers[name], f"/{name}"))
            self.model.nodes[root.id] = Node(root.id, None, name, "Folder", name)
            default = self.database.read(lambda c, name=name: node_at(c, self.callers[name], f"/{name}/default"))
            self.model.nodes[default.id] = Node(default.id, root.id, name, "Folder", "default")
        self.users = list(self.callers)
        # From the start some see, some edit, some neither: else most of what is drawn is refused.
        first = next(node for node in self.model.nodes.values() if node.name == "default")
        owner, node_id = self.callers[first.owner], first.id
        for name, access in zip(self.users[1:], ("edit", "view"), strict=True):
            first.shares[name] = access
            self.database.write(
                lambda c, name=name, access=access: sharing.grant(c, owner, node_id, "user", name, access)
            )

    def pick(self, data: st.DataObject, *, live: bool = False) -> Node:
        """A node: mostly one that is there and no user's root, as with the others most is refused."""
        found = [node for node in self.model.nodes.values() if not live or self.model.is_live(node)]
        usual = [node for node in found if node.parent is not None and self.model.is_live(node)]
        return data.draw(st.sampled_from(usual if usual and data.draw(st.integers(0, 3)) else found))

    def user(self, who: int, node: Node) -> str:
        """One of the three, or the owner: most of what the others try is refused."""
        return self.users[who] if who < 3 else node.owner

    def both(self, expected: Callable[[], Any], work: Callable[[Any], Any]) -> Any:
        """Does something in the model and in the database, and compares how it ends; None if it is refused."""
        wanted, value = "ok", None
        try:
            expected()
        except Refused as refused:
            wanted = str(refused)
        got = "ok"
        try:
            value = self.database.write(work)
        except Refusal as refusal:
            got = refusal.kind
        assert got == wanted
        return value if got == "ok" else None

    @rule(data=st.data(), who=st.integers(0, 3), name=st.sampled_from(NAMES))
    def make_folder(self, data: st.DataObject, who: int, name: str) -> None:
        parent = self.pick(data, live=True)
        user = self.user(who, parent)
        if parent.kind == "Shortcut":
            return  # followed: `make_in_shortcut`

        def expected() -> None:
            self.model.need(user, parent, Access.EDIT)
            if parent.kind != "Folder" or self.model.child(parent, name):
                raise Refused("conflict")

        path = f"{self.model.path(parent)}/{name}"
        made = self.both(expected, lambda c: folders.make_folder(c, self.callers[user], path))
        if made is not None:
            self.model.nodes[made.node_id] = Node(made.node_id, parent.id, parent.owner, "Folder", name)

    @rule(
        data=st.data(),
        who=st.integers(0, 3),
        name=st.sampled_from(NAMES),
        strategy=st.sampled_from(["skip", "error", "new", "replace"]),
    )
    def place_artifact(self, data: st.DataObject, who: int, name: str, strategy: str) -> None:
        parent = self.pick(data, live=True)
        user = self.user(who, parent)
        if parent.kind == "Shortcut":
            return
        outcome: dict[str, Any] = {"name": name}

        def expected() -> None:
            self.model.need(user, parent, Access.EDIT)
            if parent.kind != "Folder":
                raise Refused("conflict")
            there = self.model.child(parent, name)
            if there is None:
                return
            if strategy == "new":
                outcome["name"] = "alternative"
                if self.model.child(parent, "alternative"):
                    raise Refused("conflict")
            elif strategy == "error" or there.kind != "Artifact":
                raise Refused("conflict")
            elif strategy == "skip":
                outcome["skipped"] = there.id
            else:
                there.in_trash = True

        placement = Placement(self.model.path(parent), name, "alternative", conflict_strategy=strategy)
        placed = self.both(expected, lambda c: place(c, self.callers[user], placement, "Artifact"))
        if placed is not None:
            assert placed.created == ("skipped" not in outcome)
            if placed.created:
                made = Node(placed.node_id, parent.id, parent.owner, "Artifact", outcome["name"])
                self.model.nodes[made.id] = made
            else:
                assert placed.node_id == outcome["skipped"]

    @rule(data=st.data(), who=st.integers(0, 3), name=st.sampled_from(NAMES) | st.none(), moves=st.booleans())
    def change(self, data: st.DataObject, who: int, name: str | None, moves: bool) -> None:
        node = self.pick(data)
        user = self.user(who, node)
        folder = self.pick(data) if moves else None

        def expected() -> None:
            self.model.need(user, node, Access.EDIT)
            if name is not None or folder is not None:
                self.model.relocate(user, node, folder, name or node.name)

        wanted = changes.Change(name=name, parent_id=folder and folder.id)
        self.both(expected, lambda c: changes.change(c, self.callers[user], node.id, wanted))

    @rule(data=st.data(), who=st.integers(0, 3))
    def delete(self, data: st.DataObject, who: int) -> None:
        node = self.pick(data)
        user = self.user(who, node)

        def expected() -> None:
            self.model.need(user, node, Access.EDIT)
            if node.parent is None:
                raise Refused("conflict")
            node.in_trash = True

        self.both(expected, lambda c: trash.delete(c, self.callers[user], node.id))

    @rule(data=st.data(), who=st.integers(0, 3), name=st.sampled_from(NAMES) | st.none())
    def restore(self, data: st.DataObject, who: int, name: str | None) -> None:
        trashed = [node for node in self.model.nodes.values() if node.in_trash]
        if not trashed:
            return
        node = data.draw(st.sampled_from(trashed))
        user = self.user(who, node)

        def expected() -> None:
            self.model.need(user, node, Access.EDIT, in_trash=True)
            assert node.parent is not None
            if not self.model.is_live(self.model.nodes[node.parent]):
                raise Refused("conflict")
            self.model.relocate(user, node, None, name or node.name)
            node.in_trash = False

        self.both(expected, lambda c: trash.restore(c, self.callers[user], node.id, name=name))

    @rule(data=st.data(), who=st.integers(0, 3), now=st.booleans())
    def purge(self, data: st.DataObject, who: int, now: bool) -> None:
        node = self.pick(data)
        user = self.user(who, node)

        def expected() -> None:
            self.model.need(user, node, Access.OWN, in_trash=True)
            node.is_gone = True

        self.both(expected, lambda c: trash.purge(c, self.callers[user], node.id))
        if now:
            trash.expire(self.database, 30)
            gone = {one.id for node in self.model.nodes.values() if node.is_gone for one in self.model.below(node)}
            self.model.nodes = {key: node for key, node in self.model.nodes.items() if key not in gone}

    @rule(
        data=st.data(),
        who=st.integers(0, 3),
        grantee=st.sampled_from([0, 1, 2, None]),
        access=st.sampled_from(["view", "edit", None]),
    )
    def share(self, data: st.DataObject, who: int, grantee: int | None, access: str | None) -> None:
        node = self.pick(data)
        user = self.user(who, node)
        name = "" if grantee is None else self.users[grantee]

        def expected() -> None:
            self.model.need(user, node, Access.OWN)
            if access is not None:
                node.shares[name] = access
            elif node.shares.pop(name, None) is None:
                raise Refused("not_found")

        kind, named = ("user", name) if name else ("public", "everybody")

        def work(connection: Any) -> None:
            if access is None:
                sharing.revoke(connection, self.callers[user], node.id, kind, named)
            else:
                sharing.grant(connection, self.callers[user], node.id, kind, named, access)

        self.both(expected, work)

    @rule(data=st.data(), who=st.integers(0, 3), name=st.sampled_from(NAMES))
    def make_shortcut(self, data: st.DataObject, who: int, name: str) -> None:
        target, parent = self.pick(data), self.pick(data, live=True)
        user = self.user(who, parent)
        if parent.kind != "Folder":
            return
        outcome: dict[str, str] = {}

        def expected() -> None:
            self.model.need(user, target, Access.VIEW)
            final = self.model.followed(user, target)
            if final is None:
                raise Refused("not_found")
            outcome["target"] = final.id
            self.model.need(user, parent, Access.EDIT)
            if self.model.child(parent, name):
                raise Refused("conflict")

        path = f"{self.model.path(parent)}/{name}"
        made = self.both(expected, lambda c: shortcuts.make_shortcut(c, self.callers[user], path, target.id))
        if made is not None:
            self.model.nodes[made] = Node(made, parent.id, parent.owner, "Shortcut", name, target=outcome["target"])

    @rule(data=st.data(), who=st.integers(0, 3), name=st.sampled_from(NAMES))
    def copy(self, data: st.DataObject, who: int, name: str) -> None:
        node, folder = self.pick(data), self.pick(data)
        user = self.user(who, folder)

        def expected() -> None:
            self.model.need(user, node, Access.VIEW)
            self.model.need(user, folder, Access.EDIT)
            if node.parent is None or folder.kind != "Folder" or self.model.child(folder, name):
                raise Refused("conflict")

        originals = [one for one in self.model.below(node) if self.model.is_live(one)]
        made = self.both(expected, lambda c: copies.copy(c, self.callers[user], node.id, folder.id, COPIERS, name))
        if made is not None:
            self.adopt(user, originals, node, made, folder, name)

    def adopt(self, user: str, originals: list[Node], top: Node, made: str, folder: Node, name: str) -> None:
        """Adds what a copy made to the model, by walking both side by side."""
        new_ids = {top.id: made}
        self.model.nodes[made] = Node(made, folder.id, folder.owner, top.kind, name, top.target)
        for original in originals:
            if original.kind == "Folder":
                page = self.database.read(
                    lambda c, original=original: listing.children(
                        c, self.callers[folder.owner], new_ids[original.id], limit=1000
                    )
                )
                by_name = {one.name: one.id for one in page.nodes}
                for below in originals:
                    if below.parent == original.id and below.id != top.id:
                        copied = new_ids[below.id] = by_name[below.name]
                        parent = new_ids[original.id]
                        node = Node(copied, parent, folder.owner, below.kind, below.name, below.target)
                        self.model.nodes[copied] = node

    @rule(data=st.data(), who=st.integers(0, 3))
    def look(self, data: st.DataObject, who: int) -> None:
        """What one user sees of one node: by id, by path, through it, and in it."""
        self.check_view(self.users[who % 3], self.pick(data))

    def check_view(self, user: str, node: Node) -> None:
        caller = self.callers[user]

        def seen(work: Callable[[Any], Any]) -> Any:
            try:
                return self.database.read(work)
            except Refusal as refusal:
                return refusal.kind

        is_seen = self.model.is_live(node) and self.model.access(user, node) > Access.NONE
        expected = node.id if is_seen else "not_found"
        assert seen(lambda c: node_for(c, caller, node.id).id) == expected
        if self.model.is_live(node):
            assert seen(lambda c: node_at(c, caller, self.model.path(node)).id) == expected
        if not is_seen:
            return
        target = self.model.followed(user, node)
        assert seen(lambda c: shortcuts.followed(c, caller, node.id).id) == (target.id if target else "not_found")
        page = seen(lambda c: listing.children(c, caller, node.id, limit=1000))
        if target is None or target.kind != "Folder":
            assert page == "conflict"
            return
        listed = {one.id: (one.path, one.access) for one in page.nodes}
        children = self.model.children(target)
        assert listed == {one.id: (self.model.path(one), self.model.access(user, one)) for one in children}

    def teardown(self) -> None:
        """Everything that every user sees, at the end."""
        for user, caller in self.callers.items():
            for node in self.model.nodes.values():
                self.check_view(user, node)
            shared = self.database.read(lambda c, caller=caller: sharing.shared_with(c, caller, limit=1000))
            nodes = self.model.nodes.values()
            expected = {one.id for one in nodes if user in one.shares and one.owner != user and self.model.is_live(one)}
            assert {one.id for one in shared.nodes} == expected
            thrown = self.database.read(lambda c, caller=caller: trash.trash_page(c, caller, limit=1000))
            own = [one for one in nodes if one.owner == user and one.in_trash]
            assert {one.id for one in thrown.nodes} == {
                one.id for one in own if not any(above.is_gone for above in self.model.chain(one))
            }


def test_tree_does_what_the_model_says(database: Database) -> None:
    machine = type("Machine", (TreeMachine,), {"database": database})
    suppressed = list(HealthCheck)
    options = settings(max_examples=100, stateful_step_count=50, deadline=None, suppress_health_check=suppressed)
    run_state_machine_as_test(machine, settings=options)  # type: ignore[no-untyped-call]

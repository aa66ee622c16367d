"""Conflict strategies, folders made on the way, and who may place."""

from __future__ import annotations

import pytest
from harness import Account
from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import Database, nodes
from t9k.aistore.errors import Refusal
from t9k.aistore.tree.access import node_at
from t9k.aistore.tree.folders import make_folder
from t9k.aistore.tree.placement import Placed, Placement, place


def put(
    database: Database, caller: Caller, name: str, strategy: str = "error", kind: str = "Run", **more: object
) -> Placed:
    placement = Placement("/ada/default", name, conflict_strategy=strategy, **more)  # type: ignore[arg-type]
    return database.write(lambda connection: place(connection, caller, placement, kind))


def test_place_under_a_free_name_makes_a_node(database: Database, ada: Account) -> None:
    placed = put(database, ada.caller, "run")
    node = database.read(lambda connection: node_at(connection, ada.caller, "/ada/default/run"))
    assert placed == Placed(node.id, created=True)
    assert (node.kind, node.version) == ("Run", 1)


def test_place_error_refuses_a_taken_name(database: Database, ada: Account) -> None:
    put(database, ada.caller, "run")
    with pytest.raises(Refusal) as refusal:
        put(database, ada.caller, "run")
    assert refusal.value.kind == "conflict"


def test_place_skip_answers_the_node_that_is_there(database: Database, ada: Account) -> None:
    first = put(database, ada.caller, "run", "skip")
    assert put(database, ada.caller, "run", "skip") == Placed(first.node_id, created=False)


def test_place_new_takes_the_alternative_name_once(database: Database, ada: Account) -> None:
    put(database, ada.caller, "run")
    placed = put(database, ada.caller, "run", "new", alternative_name="run_1")
    node = database.read(lambda connection: node_at(connection, ada.caller, "/ada/default/run_1"))
    assert node.id == placed.node_id
    with pytest.raises(Refusal) as refusal:
        put(database, ada.caller, "run", "new", alternative_name="run_1")
    assert refusal.value.kind == "conflict"


def test_place_replace_puts_the_older_into_the_trash(database: Database, ada: Account) -> None:
    old = put(database, ada.caller, "run", "replace")
    new = put(database, ada.caller, "run", "replace")
    assert new.created
    assert new.node_id != old.node_id
    trashed = database.read(lambda connection: nodes.by_id(connection, old.node_id))
    assert trashed is not None
    assert trashed.trashed_us is not None


@pytest.mark.parametrize("strategy", ["skip", "replace", "error"])
def test_place_never_takes_another_kind_for_its_own(database: Database, ada: Account, strategy: str) -> None:
    put(database, ada.caller, "thing", kind="Artifact")
    with pytest.raises(Refusal) as refusal:
        put(database, ada.caller, "thing", strategy)
    assert refusal.value.kind == "conflict"


def test_place_makes_missing_folders_only_when_asked(database: Database, ada: Account) -> None:
    def work(make: bool) -> Placed:
        placement = Placement("/ada/a/b", "run", make_folder=make)
        return database.write(lambda connection: place(connection, ada.caller, placement, "Run"))

    with pytest.raises(Refusal) as refusal:
        work(False)
    assert refusal.value.kind == "not_found"
    assert work(True).created
    kinds = database.read(lambda connection: node_at(connection, ada.caller, "/ada/a/b").kind)
    assert kinds == "Folder"


def test_place_in_a_run_is_refused(database: Database, ada: Account) -> None:
    put(database, ada.caller, "run")
    placement = Placement("/ada/default/run/x", "y", make_folder=True)
    with pytest.raises(Refusal) as refusal:
        database.write(lambda connection: place(connection, ada.caller, placement, "Run"))
    assert refusal.value.kind == "conflict"


@pytest.mark.parametrize("folder", ["/ada/default", "/ada/other", "/nobody/x"])
def test_place_in_the_tree_of_another_sees_nothing(database: Database, ada: Account, bob: Account, folder: str) -> None:
    placement = Placement(folder, "x", make_folder=True)
    with pytest.raises(Refusal) as refusal:
        database.write(lambda connection: place(connection, bob.caller, placement, "Run"))
    assert refusal.value.kind == "not_found"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", " a", "x" * 256, "\u202eb", "\ud800"])
def test_place_refuses_names_that_cannot_be_one(database: Database, ada: Account, name: str) -> None:
    with pytest.raises(Refusal) as refusal:
        put(database, ada.caller, name)
    assert refusal.value.kind == "invalid_input"


def test_folder_that_ignores_case_takes_a_name_once(database: Database, ada: Account) -> None:
    def work(path: str, ignore_case: bool | None = None) -> Placed:
        return database.write(lambda connection: make_folder(connection, ada.caller, path, ignore_case=ignore_case))

    work("/ada/Data", ignore_case=True)
    work("/ada/Data/Sets")
    with pytest.raises(Refusal) as refusal:
        work("/ada/Data/SETS")
    assert refusal.value.kind == "conflict"
    work("/ada/Data/sets/x")  # found by either case, and ignores it too
    with pytest.raises(Refusal):
        work("/ada/Data/Sets/X")
    work("/ada/data")  # its parent does not ignore case


def test_folder_at_the_deepest_place_holds_a_node_and_no_folder(database: Database, ada: Account) -> None:
    deepest = "/ada" + "/d" * 62
    database.write(lambda connection: make_folder(connection, ada.caller, deepest, parents=True))
    placement = Placement(deepest, "run")
    assert database.write(lambda connection: place(connection, ada.caller, placement, "Run")).created
    with pytest.raises(Refusal) as refusal:
        database.write(lambda connection: make_folder(connection, ada.caller, f"{deepest}/e"))
    assert refusal.value.kind == "invalid_input"

"""Several threads change the tree at once; what comes out is what one of the orders one by one would give."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from harness import Account
from t9k.aistore.db import Database, nodes
from t9k.aistore.db.tables.tree import nodes as table
from t9k.aistore.errors import Refusal
from t9k.aistore.tree import changes, trash
from t9k.aistore.tree.folders import make_folder
from t9k.aistore.tree.placement import Placement, place

ROUNDS = 12

Work = Callable[[Any], Any]


def at_once(database: Database, *works: Work) -> list[Any]:
    """The results of transactions that begin together: a value, or the kind of a refusal."""
    barrier = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def run(index: int, work: Work) -> None:
        barrier.wait()
        try:
            results[index] = database.write(work)
        except Refusal as refusal:
            results[index] = refusal.kind

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def make(database: Database, account: Account, path: str) -> str:
    return database.write(lambda c: make_folder(c, account.caller, path, parents=True)).node_id


def live_in(database: Database, folder_id: str) -> list[Any]:
    query = sa.select(table).where(table.c.parent_id == folder_id, table.c.trashed_us.is_(None))
    return database.read(lambda c: list(c.execute(query)))


def test_moves_into_each_other_never_make_a_cycle(database: Database, ada: Account) -> None:
    for number in range(ROUNDS):
        ids = [make(database, ada, f"/ada/{number}/{name}") for name in "abc"]
        ring = [(ids[0], ids[1]), (ids[1], ids[2]), (ids[2], ids[0])]
        works = [
            lambda c, node=node, parent=parent: changes.change(c, ada.caller, node, changes.Change(parent_id=parent))
            for node, parent in ring
        ]
        results = at_once(database, *works)
        assert sorted(map(str, results)) == ["None", "None", "invalid_input"]  # the last one would close the ring
        for node in ids:
            chain = database.read(lambda c, node=node: nodes.ancestors(c, node))
            assert chain[-1].parent_id is None


def test_one_of_many_makes_a_name(database: Database, ada: Account) -> None:
    for number in range(ROUNDS):
        folder = make(database, ada, f"/ada/{number}")
        results = at_once(
            database, *[lambda c, n=number: make_folder(c, ada.caller, f"/ada/{n}/x").node_id for _ in range(5)]
        )
        made = [row.id for row in live_in(database, folder)]
        assert len(made) == 1
        assert sorted(results) == sorted([*made, *["conflict"] * 4])


def test_skip_answers_the_one_that_won_and_new_takes_the_other_name(database: Database, ada: Account) -> None:
    for number in range(ROUNDS):
        folder = make(database, ada, f"/ada/{number}")
        skip = Placement(f"/ada/{number}", "x", conflict_strategy="skip")
        new = Placement(f"/ada/{number}", "x", "y", conflict_strategy="new")
        results = at_once(database, *[lambda c, p=p: place(c, ada.caller, p, "Run") for p in (skip, skip, new)])
        here = {row.name: row.id for row in live_in(database, folder)}
        assert "x" in here
        for placed in results[:2]:
            assert placed.node_id == here["x"]
        assert sum(placed.created for placed in results) == len(here)
        assert results[2].created
        assert results[2].node_id == here.get("y", here["x"])


def test_replace_leaves_one_and_throws_the_others_away(database: Database, ada: Account) -> None:
    for number in range(ROUNDS):
        folder = make(database, ada, f"/ada/{number}")
        placement = Placement(f"/ada/{number}", "x", conflict_strategy="replace")
        results = at_once(database, *[lambda c, p=placement: place(c, ada.caller, p, "Run") for _ in range(4)])
        assert len({placed.node_id for placed in results}) == 4
        assert [row.id in {placed.node_id for placed in results} for row in live_in(database, folder)] == [True]


def test_delete_against_create_keeps_what_was_acknowledged(database: Database, ada: Account) -> None:
    for number in range(ROUNDS):
        folder = make(database, ada, f"/ada/{number}/d")
        deleted, made = at_once(
            database,
            lambda c, folder=folder: trash.delete(c, ada.caller, folder),
            lambda c, n=number: make_folder(c, ada.caller, f"/ada/{n}/d/x").node_id,
        )
        assert deleted is None
        # Either it was made first, and lies in the trash with its folder, or there was no folder any more.
        inside = [row.id for row in live_in(database, folder)]
        assert inside == ([] if made == "not_found" else [made])
        database.write(lambda c, folder=folder: trash.restore(c, ada.caller, folder))


def test_two_restores_under_one_name_are_one(database: Database, ada: Account) -> None:
    for number in range(ROUNDS):
        ids = []
        for _ in range(2):
            ids.append(make(database, ada, f"/ada/{number}/x"))
            database.write(lambda c, node=ids[-1]: trash.delete(c, ada.caller, node))
        results = at_once(database, *[lambda c, node=node: trash.restore(c, ada.caller, node) for node in ids])
        assert sorted(map(str, results)) == ["None", "conflict"]


def test_if_match_lets_one_of_many_change(database: Database, ada: Account) -> None:
    node = make(database, ada, "/ada/x")
    for version in range(1, ROUNDS):
        works = [
            lambda c, v=version, i=i: changes.change(
                c, ada.caller, node, changes.Change(description=str(i)), frozenset([v])
            )
            for i in range(4)
        ]
        assert sorted(map(str, at_once(database, *works))) == ["None", *["conflict"] * 3]

"""What a run read and made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import lineage
from t9k.aistore.db.lineage import Edge
from t9k.aistore.documents import check_text
from t9k.aistore.errors import invalid
from t9k.aistore.runs.records import check_run
from t9k.aistore.tree.access import Access, node_at, node_for
from t9k.protocol.runs import MAX_EDGES, MAX_EXTERNAL_NAME_BYTES

SIDES = ("input", "output")


@dataclass(frozen=True)
class Target:
    """What an edge leads to: a node by its id or its path, or the type and name of what is in no tree here."""

    id: str | None = None
    path: str | None = None
    type: str | None = None
    name: str | None = None


def put(
    connection: lineage.Connection,
    caller: Caller,
    run_id: str,
    inputs: Sequence[Target] | None,
    outputs: Sequence[Target] | None,
) -> None:
    """Replaces the inputs, the outputs, or both, of a run. A target that is named twice counts once.

    An input is something that the caller may see; an output something that they may change, so that nobody claims to
    have made what is not theirs.

    Raises:
        Refusal: As `runs.records.check_run`, of the run and of the nodes; a target is none (`invalid_input`).
    """
    check_run(connection, caller, run_id, Access.EDIT)
    for side, targets in zip(SIDES, (inputs, outputs), strict=True):
        if targets is None:
            continue
        if len(targets) > MAX_EDGES:
            raise invalid(f"a run has at most {MAX_EDGES} {side}s, not {len(targets)}")
        need = Access.VIEW if side == "input" else Access.EDIT
        found = dict.fromkeys(_edge(connection, caller, target, need) for target in targets)
        lineage.set_edges(connection, run_id, side, list(found))


def _edge(connection: lineage.Connection, caller: Caller, target: Target, need: Access) -> Edge:
    if target.id is not None and (target.path, target.type, target.name) == (None, None, None):
        return Edge(node_for(connection, caller, target.id, need).id)
    if target.path is not None and (target.id, target.type, target.name) == (None, None, None):
        return Edge(node_at(connection, caller, target.path, need, follow=True).id)
    if target.type is None or target.name is None or target.id is not None or target.path is not None:
        raise invalid("an input or output has an id, or a path, or a type and a name")
    for text in (target.type, target.name):
        check_text(text, "an input or output")
        if not 1 <= len(text.encode()) <= MAX_EXTERNAL_NAME_BYTES or "\0" in text:
            raise invalid(f"type and name of an input or output have 1 to {MAX_EXTERNAL_NAME_BYTES} bytes, and no NUL")
    return Edge(None, target.type, target.name)

"""The record of a run: made once, changed in parts, alive as long as it beats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, nodes, runs
from t9k.aistore.documents import check_document
from t9k.aistore.errors import Refusal, conflict, invalid, not_found
from t9k.aistore.runs.params import leaves
from t9k.aistore.tree.access import Access, Node, node_at, node_for
from t9k.aistore.tree.changes import check_version
from t9k.aistore.tree.names import check_description, check_labels
from t9k.aistore.tree.placement import Placed, Placement, place
from t9k.protocol.runs import MAX_CLIENT_ID_CHARS, RUN_STATES

_CLIENT_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_CLIENT_ID_CHARS}}}")

BEAT_EVERY_US = 5_000_000
"""A heartbeat is written at most this often."""


@dataclass(frozen=True)
class Parts:
    """What a client says of a run; None is "not said", which leaves it as it is."""

    state: str | None = None
    started_us: int | None = None
    ended_us: int | None = None
    labels: Sequence[str] | None = None
    description: str | None = None
    metadata: dict[str, Any] | None = None
    hparams: dict[str, Any] | None = None
    platform: dict[str, Any] | None = None
    git: dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """A run that the caller may see: its node, its row of `runs`, and its labels."""

    node: Node
    record: Any
    labels: list[str]


def create(connection: runs.Connection, caller: Caller, client_id: str, placement: Placement, parts: Parts) -> Placed:
    """Makes a run, or answers the one that the caller has made under this client id.

    With the strategy ``skip`` the answer may be a run that somebody else has made; nothing of `parts` is written then.

    Raises:
        Refusal: As `tree.placement.place`, or the run was made before and is in the trash (`conflict`), or a part
            cannot be stored (`invalid_input`).
    """
    check_client_id(client_id, "client_id")
    _check(parts)
    before = runs.by_client(connection, caller.user_id, client_id)
    if before is not None:
        try:
            return Placed(node_for(connection, caller, before).id, created=False)
        except Refusal as error:
            raise conflict(
                "this run was made before, and is in the trash or not yours to see any more",
                hint="restore it, or send another client_id",
            ) from error
    placed = place(connection, caller, placement, "Run")
    if placed.created:
        now = now_us()
        state = parts.state or "Running"
        record = {
            "node_id": placed.node_id,
            "creator_id": caller.user_id,
            "client_id": client_id,
            "heartbeat_us": now,
            "started_us": now,
            **{name: {} for name in ("metadata", "hparams", "platform", "git")},
            **_columns(parts, state, now),
        }
        runs.insert(connection, record)
        _write_beside(connection, placed.node_id, parts)
    return placed


def read(connection: runs.Connection, caller: Caller, run_id: str) -> Run:
    """A run by its id.

    Raises:
        Refusal: There is none, or none that the caller may see (`not_found`).
    """
    return _run(connection, node_for(connection, caller, run_id))


def read_at(connection: runs.Connection, caller: Caller, path: str) -> Run:
    """A run by its path, or by that of a shortcut to it.

    Raises:
        Refusal: As `read`.
    """
    return _run(connection, node_at(connection, caller, path, follow=True))


def check_run(connection: runs.Connection, caller: Caller, run_id: str, need: Access = Access.VIEW) -> Any:
    """The row of a run without its documents, if the caller may do what they need.

    Raises:
        Refusal: As `tree.access.node_for`; of a node that is no run too (`not_found`).
    """
    node_for(connection, caller, run_id, need)
    row = runs.state_of(connection, run_id)
    if row is None:
        raise not_found(f"node {run_id} is no run")
    return row


def change(
    connection: runs.Connection, caller: Caller, run_id: str, parts: Parts, if_match: frozenset[int] | None
) -> None:
    """Writes the parts that are said.

    Args:
        connection: Of the transaction.
        caller: Who asks.
        run_id: Of the run.
        parts: What to write.
        if_match: Versions of the node; if it has none of them, nothing is written. None is any.

    Raises:
        Refusal: As `check_run`; a part cannot be stored (`invalid_input`); the version is another one (`conflict`).
    """
    _check(parts)
    row = check_run(connection, caller, run_id, Access.EDIT)
    node = nodes.by_id(connection, run_id)
    assert node is not None
    check_version(node, if_match)
    now = now_us()
    columns = _columns(parts, parts.state or row.state, now)
    if parts.state == "Running":
        columns["heartbeat_us"] = now
    runs.update(connection, run_id, columns)
    _write_beside(connection, run_id, parts)
    nodes.update(connection, run_id, now)


def beat(database: Database, caller: Caller, run_id: str) -> str:
    """Notes that a run lives; answers its state, which tells a client that somebody has ended it.

    A run that counted as crashed runs again. One that is complete or failed stays so.

    Raises:
        Refusal: As `check_run`.
    """
    row = database.read(lambda connection: check_run(connection, caller, run_id, Access.EDIT))
    now = now_us()
    is_due = row.state == "Crashed" or (row.state == "Running" and row.heartbeat_us <= now - BEAT_EVERY_US)
    if is_due:
        database.write_to_run(run_id, lambda connection: runs.beat(connection, run_id, now))
        row = database.read(lambda connection: check_run(connection, caller, run_id, Access.EDIT))
    return str(row.state)


def crash_silent(database: Database, silent_s: float) -> int:
    """Marks running runs as crashed that have been silent for this long; answers how many."""
    before_us = now_us() - int(silent_s * 1_000_000)
    return database.write(lambda connection: runs.crash_silent(connection, before_us))


def check_client_id(text: str, what: str) -> str:
    """The id that a client has chosen.

    Raises:
        Refusal: It has other characters, or is too long (`invalid_input`).
    """
    if not _CLIENT_ID.fullmatch(text):
        raise invalid(f"{what} must be 1 to {MAX_CLIENT_ID_CHARS} letters, digits, - and _")
    return text


def _run(connection: runs.Connection, node: Node) -> Run:
    record = runs.by_id(connection, node.id)
    if record is None:
        raise not_found(f"node {node.id} is no run")
    return Run(node, record, nodes.labels_of(connection, [node.id]).get(node.id, []))


def _check(parts: Parts) -> None:
    if parts.state is not None and parts.state not in RUN_STATES:
        raise invalid(f"{parts.state[:40]!r} is no state", hint=f"use one of {', '.join(RUN_STATES)}")
    for name in ("metadata", "hparams", "platform", "git"):
        document = getattr(parts, name)
        if document is not None:
            check_document(document, name)
    check_labels(parts.labels or ())
    check_description(parts.description or "")


def _columns(parts: Parts, state: str, now: int) -> dict[str, Any]:
    """Columns of `runs` for the parts that are said; a run that ends without a time ends now."""
    names = ("state", "started_us", "ended_us", "metadata", "hparams", "platform", "git")
    columns = {name: value for name in names if (value := getattr(parts, name)) is not None}
    columns["state"] = state
    if state == "Running":
        columns["ended_us"] = None
    elif parts.state is not None:
        columns.setdefault("ended_us", now)
    return columns


def _write_beside(connection: runs.Connection, run_id: str, parts: Parts) -> None:
    """Writes what is not in `runs`: labels and description of the node, and parameters for filters."""
    if parts.hparams is not None:
        runs.set_params(connection, run_id, leaves(parts.hparams))
    if parts.labels is not None:
        nodes.set_labels(connection, run_id, check_labels(parts.labels))
    if parts.description is not None:
        nodes.update(connection, run_id, now_us(), description=parts.description)

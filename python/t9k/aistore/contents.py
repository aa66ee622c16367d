"""What nodes of each kind hold beside their rows, and how a copy gets it."""

from __future__ import annotations

from collections.abc import Mapping

from t9k.aistore.accounts.caller import Caller
from t9k.aistore.db import nodes, run_copies, versions
from t9k.aistore.tree.copies import Copier


def copy_artifacts(connection: nodes.Connection, caller: Caller, copies: Mapping[str, str]) -> None:
    """Gives copies the versions of their originals; bytes are shared by reference."""
    for original, copied in copies.items():
        versions.copy_versions(connection, original, copied)


def copy_runs(connection: nodes.Connection, caller: Caller, copies: Mapping[str, str]) -> None:
    """Gives copies the records of their originals."""
    for original, copied in copies.items():
        run_copies.copy_run(connection, original, copied, caller.user_id)


COPIERS: dict[str, Copier | None] = {
    "Folder": None,
    "Shortcut": None,
    "Run": copy_runs,
    "Artifact": copy_artifacts,
}
"""Kinds that can be copied, and what copies their contents."""

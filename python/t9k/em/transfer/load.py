"""`em load`: whatever a path of the server names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t9k.em.client import nodes
from t9k.em.client.placement import absolute_path
from t9k.em.errors import InvalidInputError
from t9k.em.run import load_run
from t9k.em.transfer.download import download_artifact
from t9k.em.transfer.download_run import download_run

if TYPE_CHECKING:
    from t9k.em.artifact import Artifact
    from t9k.em.client.session import Session
    from t9k.em.run import Run


def load_node(session: Session, path: str, into: str | None) -> Artifact | Run:
    """Loads the run at a path, or the artifact, of which it may name a version.

    Raises:
        InvalidInputError: `into` is for artifacts.
        EmError: As `download_artifact` and `download_run`.
    """
    there = nodes.find(session, absolute_path(path, session.user), follow=True)
    if there is None or there.kind != "Run":  # a version of an artifact is no path of a node
        return download_artifact(session, path, into)
    if into is not None:
        raise InvalidInputError(f"{path} is a run, which cannot be loaded into {into}", hint="set EM_RUN_PARENT_DIR")
    return load_run(download_run(session, path))

"""`em load`: whatever a path of the server names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from t9k.em.transfer.download import download_artifact

if TYPE_CHECKING:
    from t9k.em.artifact import Artifact
    from t9k.em.client.session import Session


def load_node(session: Session, path: str, into: str | None) -> Artifact:
    """Loads the artifact at a path, which may name a version.

    Raises:
        EmError: As `download_artifact`.
    """
    return download_artifact(session, path, into)

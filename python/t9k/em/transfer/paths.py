"""Uploads of local runs and artifacts."""

from __future__ import annotations

from t9k.em.errors import InvalidInputError, NotFoundError, TransferError
from t9k.protocol import CONFLICT_STRATEGIES


def upload(path: str, folder: str = "default", make_folder: bool = False, conflict_strategy: str = "new") -> None:
    """Upload local Runs or Artifacts.

    Args:
        path: Local directory of a Run or Artifact, or a parent directory that contains some.
        folder: Path of the Folder they go to; without a leading `/` it is below `/<current-user>/`.
        make_folder: Whether to make the Folder and its parents as needed.
        conflict_strategy: What to do with a taken name: `skip`, `error`, `new` (the alternative name) or `replace`.

    Raises:
        InvalidInputError: There is no such strategy.
        NotFoundError: There is nothing at the path.
        AuthError: Nobody is logged in.
        TransferError: This version cannot upload yet.
    """
    import os

    from t9k.em.client.connection import connected

    if conflict_strategy not in CONFLICT_STRATEGIES:
        strategies = ", ".join(CONFLICT_STRATEGIES)
        raise InvalidInputError(f"conflict_strategy is {conflict_strategy!r}", hint=f"use one of {strategies}")
    if not os.path.isdir(path):
        raise NotFoundError(f"there is no directory {path!r}")
    connected()
    raise TransferError(f"cannot upload {path!r}: this version only logs in")

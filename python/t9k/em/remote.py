"""The server's side of the API. This version has no server connection yet, and each function says so."""

from __future__ import annotations

from t9k.em.errors import InvalidInputError, NotFoundError, TransferError

CONFLICT_STRATEGIES = ("skip", "error", "new", "replace")


def login(ais_host: str | None = None, api_key: str | None = None, timeout: int | None = None) -> None:
    """Log in to an AIStore server.

    Args:
        ais_host: URL of the server. Defaults to `t9k.CONFIG['aistore_host']`.
        api_key: API key. Defaults to `t9k.CONFIG['api_key']`.
        timeout: Seconds to wait for the server to send data.

    Raises:
        TransferError: Always: this version cannot talk to a server.
    """
    raise TransferError("cannot log in: this version has no server connection", hint="runs and artifacts stay local")


def logout() -> None:
    """Log out from the current AIStore server; nothing happens if there is none."""


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
        TransferError: This version cannot talk to a server.
    """
    import os

    if conflict_strategy not in CONFLICT_STRATEGIES:
        strategies = ", ".join(CONFLICT_STRATEGIES)
        raise InvalidInputError(f"conflict_strategy is {conflict_strategy!r}", hint=f"use one of {strategies}")
    if not os.path.isdir(path):
        raise NotFoundError(f"there is no directory {path!r}")
    raise TransferError(f"cannot upload {path!r}: not logged in to a server")

"""Where a run or an artifact goes on the server, and what happens if its name is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from t9k.em.errors import InvalidInputError, NotFoundError
from t9k.protocol import CONFLICT_STRATEGIES


@dataclass(frozen=True)
class Target:
    """What the caller of an upload chose.

    Attributes:
        folder: Without a leading slash it is below the user's root.
        make_folder: Whether missing folders are made.
        conflict_strategy: `skip`, `error`, `new` or `replace`.
    """

    folder: str = "default"
    make_folder: bool = False
    conflict_strategy: str = "new"

    def __post_init__(self) -> None:
        if self.conflict_strategy not in CONFLICT_STRATEGIES:
            strategies = ", ".join(CONFLICT_STRATEGIES)
            raise InvalidInputError(f"conflict_strategy is {self.conflict_strategy!r}", hint=f"use one of {strategies}")
        if not isinstance(self.folder, str) or not self.folder:
            raise InvalidInputError(f"folder is {self.folder!r}", hint="use the path of a folder of the server")

    def placement(self, user: str, name: str, alternative_name: str) -> dict[str, Any]:
        """The members of a request's body that place a node."""
        folder = absolute_path(self.folder, user)
        return {**asdict(self), "folder": folder, "name": name, "alternative_name": alternative_name}


def absolute_path(path: str, user: str) -> str:
    """A path of the server as the API takes it: relative to the user's root unless it begins with a slash."""
    path = path if path.startswith("/") else f"/{user}/{path}"
    return path.rstrip("/") or "/"


@contextmanager
def telling_of_make_folder(*, is_made: bool = False) -> Iterator[None]:
    """Gives an error about a missing folder this side's hint: the server's is for those who speak HTTP."""
    try:
        yield
    except NotFoundError as error:
        text = str(error).removesuffix(f" (hint: {error.hint})")
        if "there is no folder" not in text:
            raise
        hint = "make_folder=True makes it, or `em upload` with --make-folder"
        if is_made:
            hint = "it is in a tree where you may make none, or of a user who is not there"
        raise NotFoundError(text, hint=hint) from None

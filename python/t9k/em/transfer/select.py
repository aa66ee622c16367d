"""Which entries of an artifact a caller means, and where their files go."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from t9k.em.errors import ConflictError, NotFoundError, StoreError


def select(known: Iterable[str], paths: Sequence[str] | None, glob: str | None, what: str) -> list[str]:
    """The known paths that are meant, sorted.

    Args:
        known: Paths of entries.
        paths: Entries and directories; all by default.
        glob: Pattern of paths; all by default.
        what: What is looked for, for the error.

    Raises:
        NotFoundError: One of `paths` means nothing, or all together do.
    """
    chosen = sorted(known)
    if paths is not None:
        if isinstance(paths, str):
            paths = [paths]
        wanted = [path.rstrip("/") for path in paths]
        for path in wanted:
            if not any(_is_below(name, path) for name in chosen):
                raise NotFoundError(f"there is no {what} at {path!r}")
        chosen = [name for name in chosen if any(_is_below(name, path) for path in wanted)]
    if glob is not None:
        chosen = [name for name in chosen if fnmatchcase(name, glob)]
    if not chosen:
        raise NotFoundError(f"there is no {what}" + (f" that matches {glob!r}" if glob is not None else ""))
    return chosen


def _is_below(name: str, path: str) -> bool:
    return path in ("", ".") or name == path or name.startswith(f"{path}/")


def make_directories(into: str, path: str) -> str:
    """The file's path below a directory, all directories on the way made; none of them is a symbolic link.

    Raises:
        ConflictError: Something else is in the way.
        StoreError: A directory cannot be made.
    """
    try:
        os.makedirs(into, exist_ok=True)
        directory = into
        for name in path.split("/")[:-1]:
            directory = os.path.join(directory, name)
            try:
                os.mkdir(directory)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(directory).st_mode):
                    raise ConflictError(f"{directory} is in the way of a directory", hint="remove it") from None
    except OSError as error:
        raise StoreError(f"cannot make the directories of {os.path.join(into, path)}: {error.strerror}") from error
    return os.path.join(into, path)

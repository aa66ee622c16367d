"""What `em hash` prints. Imports little: it competes with b3sum."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator

from t9k.em import _engine
from t9k.em.errors import EmError, StoreError, translated
from t9k.em.escape import printable
from t9k.em.progress import Progress


def print_digests(paths: Iterable[str]) -> None:
    """Prints the digest of each file, and of each file below a directory, when it is known.

    Raises:
        StoreError: Some could not be hashed, which was said; the others are.
    """
    is_terminal = sys.stdout.isatty()
    with Progress("hash") as progress, failures(progress) as failed:
        for path, digest in digests(paths, progress, failed):
            # `b3sum --check` knows escaped names by the backslash before the digest.
            escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
            mark = "" if escaped == path else "\\"
            if is_terminal:
                progress.clear()
            print(f"{mark}{digest}  {printable(escaped) if is_terminal else escaped}", flush=True)


@contextlib.contextmanager
def failures(progress: Progress) -> Iterator[Callable[[EmError], None]]:
    """Gives what says that a file could not be hashed; that there were some is an error at the end."""
    count = 0

    def failed(error: EmError) -> None:
        nonlocal count
        count += 1
        progress.clear()
        print(f"Error: {printable(str(error))}", file=sys.stderr)

    yield failed
    if count:
        raise StoreError(f"{count:,} file{'s' if count > 1 else ''} could not be hashed")


def digests(
    paths: Iterable[str], progress: Progress, failed: Callable[[EmError], None] | None = None
) -> Iterator[tuple[str, str]]:
    """Yields path and BLAKE3 digest of each file; progress is told of all of them together.

    What cannot be hashed is told to `failed`, if there is one, and ends the call otherwise.
    """
    paths = list(paths)
    # What lies below a directory is not known before it has been walked.
    sizes = [0 if os.path.isdir(path) else os.path.getsize(path) for path in paths]
    totals = (0, 0) if any(map(os.path.isdir, paths)) else (len(paths), sum(sizes))
    files = size_bytes = 0

    def count(_: int, now_bytes: int, *__: int) -> None:
        progress(files, size_bytes + now_bytes, *totals)

    for path in _files(paths, failed):
        try:
            with translated():
                digest = _engine.hash_file(path, count)
        except EmError as error:
            if failed is None:
                raise
            failed(error)
            continue
        files += 1
        with contextlib.suppress(OSError):  # deleted since
            size_bytes += os.path.getsize(path)
        progress(files, size_bytes, *totals)
        yield path, digest


def _files(paths: Iterable[str], failed: Callable[[EmError], None] | None) -> Iterator[str]:
    """The paths, and the files below those that are directories, sorted. `failed` hears of what cannot be listed."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        waiting = [path]  # `os.walk` recurses before Python 3.12, and passes over what it cannot read
        while waiting:
            directory = waiting.pop()
            try:
                with os.scandir(directory) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
            except OSError as error:
                unread = StoreError(f"cannot list {directory}: {error.strerror}")
                if failed is None:
                    raise unread from None
                failed(unread)
                continue
            waiting += [entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False)]
            # A pipe would be waited for; a link that leads nowhere is an error.
            yield from (entry.path for entry in entries if entry.is_file() or _leads_nowhere(entry))


def _leads_nowhere(entry: os.DirEntry[str]) -> bool:
    return entry.is_symlink() and not os.path.exists(entry.path)

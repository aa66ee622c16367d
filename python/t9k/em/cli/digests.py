"""What `em hash` prints. Imports little: it competes with b3sum."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from t9k.em import _engine
from t9k.em.errors import translated
from t9k.em.escape import printable
from t9k.em.progress import Progress


def print_digests(paths: Iterable[str]) -> None:
    """Prints the digest of each file, and of each file below a directory, when it is known."""
    for path, digest in digests(paths):
        # `b3sum --check` knows escaped names by the backslash before the digest.
        escaped = path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
        mark = "" if escaped == path else "\\"
        print(f"{mark}{digest}  {printable(escaped) if sys.stdout.isatty() else escaped}", flush=True)


def digests(paths: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields path and BLAKE3 digest of each file."""
    for path in _files(paths):
        with translated(), Progress("hash") as progress:
            digest = _engine.hash_file(path, progress)
        yield path, digest


def _files(paths: Iterable[str]) -> Iterator[str]:
    """The paths, and for a directory the files below it, sorted."""
    for path in paths:
        if not os.path.isdir(path):
            yield path
            continue
        for directory, directories, names in os.walk(path):
            directories.sort()
            found = (os.path.join(directory, name) for name in sorted(names))
            # A pipe would be waited for; a link that leads nowhere is an error.
            yield from (name for name in found if os.path.isfile(name) or not os.path.exists(name))

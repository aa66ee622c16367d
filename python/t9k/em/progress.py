"""Progress of long calls: nothing for two seconds, then a bar on a terminal or a line per ten seconds."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Any, Self

SILENT_S = 2.0
LINE_EVERY_S = 10.0


def size_text(size_bytes: int) -> str:
    """A size as people read it: a decimal and a binary unit."""
    size, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size_bytes} B" if unit == "B" else f"{size:.1f} {unit}"


class Progress:
    """A context manager whose value is called with (files, bytes, total_files, total_bytes)."""

    def __init__(self, verb: str) -> None:
        self._verb = verb
        self._began = time.monotonic()
        self._next_line = self._began + SILENT_S
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, files: int, size_bytes: int, total_files: int, total_bytes: int) -> None:
        """Show the counts, if it is time to."""
        now = time.monotonic()
        if os.environ.get("EM_QUIET") or now < self._began + SILENT_S:
            return
        if sys.stderr.isatty():
            if self._bar is None:
                from tqdm import tqdm

                self._bar = tqdm(
                    desc=self._verb,
                    unit="B",
                    unit_scale=True,
                    unit_divisor=1024,
                    file=sys.stderr,
                    total=total_bytes or None,
                    initial=size_bytes,  # what went before it appeared would count as of this moment in its rate
                    ncols=_columns(),
                )
            self._bar.total = total_bytes or None
            self._bar.update(size_bytes - self._bar.n)
        elif now >= self._next_line:
            self._next_line = now + LINE_EVERY_S
            print(f"{self._verb}: {self._line(files, size_bytes, total_files, total_bytes)}", file=sys.stderr)

    def _line(self, files: int, size_bytes: int, total_files: int, total_bytes: int) -> str:
        if not total_bytes:  # not known yet
            return f"{files} files, {size_text(size_bytes)}"
        return f"{files} of {total_files} files, {size_text(size_bytes)} of {size_text(total_bytes)}"

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _columns() -> int | None:
    """Of a terminal that says it has none, as one without a window does; None lets tqdm follow it."""
    try:
        return None if os.get_terminal_size(sys.stderr.fileno()).columns else 80
    except (OSError, ValueError):
        return None

"""Progress of long calls, on stderr: nothing for two seconds, then a bar on a terminal or a line per ten seconds.

Nothing at all while EM_QUIET is set, or the logger `t9k.em` wants no INFO: it or `t9k` has a level above that, it is
disabled, or `logging.disable` goes as far. The root logger's level, WARNING unless somebody has set it, has no say.
"""

from __future__ import annotations

import os
import sys
from time import monotonic
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
    """A context manager whose value is called with (files, bytes, total_files, total_bytes).

    Totals are 0 as long as they are not known. A terminal that goes away and a stderr that nobody reads end what is
    shown, and not the call.
    """

    def __init__(self, verb: str, noun: str | None = None) -> None:
        """Begins to count the time.

        Args:
            verb: Stands before the counts.
            noun: What is counted, `entries` for example, where it is not files and their bytes.
        """
        self._verb = verb
        self._noun = noun
        self._began = monotonic()
        self._next_line = self._began + SILENT_S
        self._is_over = False
        self._bar: Any = None

    def __enter__(self) -> Self:
        return self

    def __call__(self, files: int, size_bytes: int, total_files: int, total_bytes: int) -> None:
        """Shows the counts, if it is time to."""
        now = monotonic()
        if self._is_over or now < self._began + SILENT_S or _is_quiet():
            return
        try:
            if _has_bar():
                self._show_bar(now, files, size_bytes, total_files, total_bytes)
            elif now >= self._next_line and sys.stderr is not None:
                self._next_line = now + LINE_EVERY_S
                line = f"{self._verb}: {self._line(files, size_bytes, total_files, total_bytes)}\n"
                sys.stderr.write(line)
                sys.stderr.flush()
        except (OSError, ValueError):  # nobody reads it, the terminal is gone, the script has closed it
            self._is_over = True

    def _show_bar(self, now: float, files: int, size_bytes: int, total_files: int, total_bytes: int) -> None:
        if self._bar is None:
            self._bar = _new_bar(self._verb, self._noun, now - self._began)
        self._bar.ncols = _columns()
        count, total = (files, total_files) if self._noun else (size_bytes, total_bytes)
        self._bar.total = total or None
        if not self._noun and total_files > 1:
            shown = f"{files:,} of {total_files:,} files" if total_bytes else f"{total_files:,} files found"
            self._bar.set_postfix_str(shown, refresh=False)
        self._bar.update(count - self._bar.n)

    def _line(self, files: int, size_bytes: int, total_files: int, total_bytes: int) -> str:
        if self._noun:
            return f"{files:,} of {total_files:,} {self._noun}" if total_files else f"{files:,} {self._noun}"
        if total_bytes:
            return f"{files:,} of {total_files:,} files, {size_text(size_bytes)} of {size_text(total_bytes)}"
        return f"{total_files:,} files found" if total_files else f"{files:,} files, {size_text(size_bytes)}"

    def clear(self) -> None:
        """Takes the bar away for something else that is printed; the next call shows it again."""
        if self._bar is not None:
            try:
                self._bar.clear()
            except (OSError, ValueError):
                self._is_over = True

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            try:
                self._bar.close()
            except (OSError, ValueError):
                self._is_over = True


def _is_quiet() -> bool:
    if os.environ.get("EM_QUIET"):
        return True
    logging = sys.modules.get("logging")  # who has not imported it has set no level
    if logging is None:
        return False
    if logging.root.manager.disable >= logging.INFO:
        return True
    logger = logging.getLogger("t9k.em")
    own = next((one.level for one in (logger, logging.getLogger("t9k")) if one.level), logging.NOTSET)
    return bool(logger.disabled or own > logging.INFO)


def _has_bar() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _new_bar(verb: str, noun: str | None, elapsed_s: float) -> Any:
    """A bar that began some time ago, and is shown by its first update."""
    import threading

    from tqdm import tqdm

    class Bar(tqdm):  # type: ignore[type-arg]
        monitor_interval = 0  # its thread would outlive the call
        # Its own would be one of multiprocessing as well.
        _lock = getattr(tqdm, "_lock", None) or threading.RLock()

    bar = Bar(
        desc=verb,
        unit=f" {noun}" if noun else "B",
        unit_scale=not noun,
        unit_divisor=1024,
        file=sys.stderr,
        miniters=0,  # the time goes on also where the count stands
        delay=1e-9,  # not before its beginning is set
        leave=None,
        ncols=_columns(),
        nrows=24,  # bars of the script itself may stand above it
    )
    bar.start_t -= elapsed_s
    bar.last_print_t = bar.start_t
    return bar


def _columns() -> int:
    """Columns of the terminal but one; one without a window says that it has none."""
    try:
        return (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 1
    except (OSError, ValueError):
        return 79

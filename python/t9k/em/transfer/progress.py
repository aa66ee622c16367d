"""Counts of one transfer, and how they are shown while it goes on."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from t9k.em.progress import Progress


@dataclass
class Report:
    """What an upload or a download did, in bytes.

    Attributes:
        total_bytes: Of all files of the artifact, each content once.
        objects: Different contents among them.
        shared_bytes: That need not travel: the other side has them, or they are twice in the artifact.
        new_bytes: That travelled, or would.
        packed_bytes: What these took on the way, compressed.
        packs: Or ranges of packs.
    """

    total_bytes: int = 0
    objects: int = 0
    shared_bytes: int = 0
    new_bytes: int = 0
    packed_bytes: int = 0
    packs: int = 0


class TransferProgress(Progress):
    """Shows bytes to check and to move, the rate, the time left, and what deduplication saved. Thread-safe.

    Attributes:
        report: The counts.
    """

    def __init__(self, verb: str) -> None:
        """Begins to count the time."""
        super().__init__(verb)
        self.report = Report()
        self._to_move_bytes = 0
        self._moving_since = 0.0
        self._lock = threading.Lock()

    def begin(self, objects: int, total_bytes: int) -> None:
        """Says how much there is, all of which counts as shared until it is moved."""
        with self._lock:
            self.report.objects, self.report.total_bytes, self.report.shared_bytes = objects, total_bytes, total_bytes
            self._show()

    def plan(self, to_move_bytes: int) -> None:
        """Says that so many more bytes will be moved; fewer if negative."""
        with self._lock:
            self._moving_since = self._moving_since or time.monotonic()
            self._to_move_bytes += to_move_bytes
            self._show()

    def moved(self, new_bytes: int, packed_bytes: int) -> None:
        """Counts what one pack, or one range of it, moved."""
        with self._lock:
            report = self.report
            report.new_bytes += new_bytes
            report.shared_bytes = max(0, report.total_bytes - report.new_bytes)
            report.packed_bytes += packed_bytes
            report.packs += 1
            self._show()

    def _show(self) -> None:
        self(0, self.report.new_bytes, 0, self._to_move_bytes)
        if self._bar is not None:
            self._bar.set_postfix_str(f"{_size(self.report.total_bytes - self._to_move_bytes)} saved", refresh=False)

    def _line(self, files: int, size_bytes: int, total_files: int, total_bytes: int) -> str:
        rate = size_bytes / max(1e-3, time.monotonic() - self._moving_since)
        left = f"{(total_bytes - size_bytes) / rate:.0f} s left" if rate else "no time known"
        saved = _size(self.report.total_bytes - total_bytes)
        return f"{_size(size_bytes)} of {_size(total_bytes)}, {_size(int(rate))}/s, {left}; {saved} need not travel"


def _size(size_bytes: int) -> str:
    size, unit = float(max(0, size_bytes)), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"

"""Counts of one transfer, and how they are shown while it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from t9k.em.progress import Progress, size_text


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
        record_bytes: That travelled beside them, or would: manifests and chunk tables of artifacts; metrics, log and
            the rest of the record of runs.
    """

    total_bytes: int = 0
    objects: int = 0
    shared_bytes: int = 0
    new_bytes: int = 0
    packed_bytes: int = 0
    packs: int = 0
    record_bytes: int = 0

    def __iadd__(self, more: Report) -> Report:
        """Adds the counts of another transfer."""
        for one in fields(Report):
            setattr(self, one.name, getattr(self, one.name) + getattr(more, one.name))
        return self


class Stopped(Exception):
    """The transfer is over, because another part of it failed or because of Ctrl-C: nobody waits for this part."""


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
        self._travelling_bytes = 0
        self._is_stopped = False
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

    def stop(self) -> None:
        """Ends what is on its way: `Travelling` raises from now on."""
        self._is_stopped = True

    def travelled(self, raw_bytes: int) -> None:
        """Counts more bytes, or fewer if negative, of what is on its way and not moved yet.

        Raises:
            Stopped: `stop` was called.
        """
        if self._is_stopped and raw_bytes > 0:
            raise Stopped
        with self._lock:
            self._travelling_bytes += raw_bytes
            if not self._is_stopped:
                self._show()

    def _show(self) -> None:
        moved = self.report.new_bytes + self._travelling_bytes
        self(0, min(moved, self._to_move_bytes), 0, self._to_move_bytes)
        if self._bar is not None:
            saved = f"{size_text(self.report.total_bytes - self._to_move_bytes)} saved"
            self._bar.set_postfix_str(saved if self._moving_since else self._checking(), refresh=False)

    def _checking(self) -> str:
        """What is told before the other side has said what it lacks."""
        return f"checking {size_text(self.report.total_bytes)}"

    def _line(self, files: int, size_bytes: int, total_files: int, total_bytes: int) -> str:
        if not self._moving_since:
            return self._checking()
        rate = size_bytes / max(1e-3, time.monotonic() - self._moving_since)
        left = f"{(total_bytes - size_bytes) / rate:.0f} s left" if rate else "no time known"
        saved = size_text(self.report.total_bytes - total_bytes)
        moved = f"{size_text(size_bytes)} of {size_text(total_bytes)}, {size_text(int(rate))}/s"
        return f"{moved}, {left}; {saved} need not travel"


class Travelling:
    """A pack, or a range of one, on its way: what has passed of it counts until it is counted as moved."""

    def __init__(self, progress: TransferProgress, raw_bytes: int, packed_bytes: int) -> None:
        """Nothing has passed.

        Args:
            progress: Is told.
            raw_bytes: What it stands for.
            packed_bytes: What passes of it in all.
        """
        self._progress = progress
        self._ratio = raw_bytes / max(1, packed_bytes)
        self._counted = 0

    def __enter__(self) -> Callable[[int], None]:
        """What is called with the bytes that have passed so far; a new attempt begins from 0."""
        return self._passed

    def __exit__(self, *_: object) -> None:
        self._passed(0)

    def _passed(self, packed_bytes: int) -> None:
        counted = int(packed_bytes * self._ratio)
        more, self._counted = counted - self._counted, counted
        self._progress.travelled(more)

"""Files of a live run, read as they grow."""

from __future__ import annotations

import os

from t9k.em.metrics import MAX_LINE_BYTES, decode_lines
from t9k.em.points import Point, Points

_BLOCK_BYTES = 1 << 20
_TAIL_BYTES = 64 << 10


class GrowingFile:
    """Reads whole lines from where the last call ended.

    The last line may still change (a progress bar does), so it is read again
    until it has its end. A file that shrank goes on at its new end.
    """

    def __init__(self, path: str, tail_bytes: int | None = None) -> None:
        """Reads nothing yet.

        Args:
            path: The file; it may come later.
            tail_bytes: Start at the first line that begins in the last so many bytes.
        """
        self.path = path
        self._tail_bytes = tail_bytes
        self._offset: int | None = None

    def read_lines(self) -> bytes:
        """Returns new whole lines, at most about a megabyte of them; b'' if there are none yet."""
        if not os.path.isfile(self.path):  # or a pipe, which would wait for ever
            return b""
        try:
            with open(self.path, "rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if self._offset is None:
                    self._offset = self._start(file, size_bytes)
                self._offset = min(self._offset, size_bytes)
                file.seek(self._offset)
                data = file.read(_BLOCK_BYTES)
                while b"\n" not in data and len(data) < MAX_LINE_BYTES and (block := file.read(_BLOCK_BYTES)):
                    data += block
        except FileNotFoundError:
            return b""
        end = data.rfind(b"\n") + 1
        if not end and len(data) >= MAX_LINE_BYTES:
            end = len(data)  # no line that we write
        self._offset += end
        return data[:end]

    def read_rest(self) -> bytes:
        """Returns what the last line has, when nobody will end it any more."""
        if not os.path.isfile(self.path):
            return b""
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset or 0)
                return file.read(_BLOCK_BYTES)
        except FileNotFoundError:
            return b""

    def _start(self, file: object, size_bytes: int) -> int:
        if self._tail_bytes is None or size_bytes <= self._tail_bytes:
            return 0
        start = size_bytes - self._tail_bytes
        descriptor = file.fileno()  # type: ignore[attr-defined]
        newline = os.pread(descriptor, self._tail_bytes, start - 1).find(b"\n")
        return start if newline < 0 else start + newline


def points_of(lines: bytes) -> Points:
    """Decodes whole lines of a metrics file; damaged ones are left out."""
    points = Points()
    if lines:
        decode_lines(lines, points)
    return points


def last_point(path: str) -> Point | None:
    """Returns the last point of a metrics file by reading its end alone, None if it has none."""
    tail_bytes = _TAIL_BYTES
    while True:
        file, last = GrowingFile(path, tail_bytes), None
        while lines := file.read_lines():
            points = points_of(lines)
            last = points[-1] if len(points) else last
        try:
            is_all = os.stat(path).st_size <= tail_bytes
        except FileNotFoundError:
            return None
        if last or is_all or tail_bytes >= MAX_LINE_BYTES:
            return last
        tail_bytes *= 16

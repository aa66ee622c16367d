"""The process that stands between a script's output and its terminal.

Run as a program, with nothing but the standard library and no site packages:
it copies what the script and its children write to where it went before, and
to a log. It outlives the script until the last writer has gone, so a SIGKILL
of the script loses nothing that was written.

Arguments: the log's descriptor, its cap in bytes, the descriptor that tells
the script that this process lives, then ``source:target`` descriptor pairs,
where a target of -1 is the log alone.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import sys

MAX_LINE_BYTES = 64 << 10
"""A longer line is written as it is: its start cannot be replaced any more."""


def collapse(line: bytes) -> bytes:
    """Returns what a terminal shows of a line with carriage returns, more or less: its last part."""
    return line.rstrip(b"\r").rpartition(b"\r")[2]


class Log:
    """The log file; the line being written is on disk too, and replaced until its end."""

    def __init__(self, fd: int, max_bytes: int) -> None:
        """Appends to an open file.

        Args:
            fd: Descriptor open for writing, not with O_APPEND.
            max_bytes: Size beyond which nothing but a notice is written.
        """
        self._fd = fd
        self._max_bytes = max_bytes
        self._start = self._end = os.fstat(fd).st_size
        self._line = b""
        self._lost_bytes = 0
        self._is_full = False

    def write(self, data: bytes) -> None:
        """Adds output; a full disk drops it, and says so when there is room again."""
        if self._is_full:
            return
        *lines, self._line = (self._line + data).split(b"\n")
        whole = b"".join(collapse(line) + b"\n" for line in lines)
        if len(self._line) > MAX_LINE_BYTES:
            self._line = collapse(self._line)
            if len(self._line) > MAX_LINE_BYTES:
                whole, self._line = whole + self._line, b""
        if self._lost_bytes:
            whole = b"[t9k] %d bytes of output are missing here\n%s" % (self._lost_bytes, whole)
        tail = collapse(self._line)
        if self._start + len(whole) + len(tail) > self._max_bytes:
            room = max(0, self._max_bytes - self._start)
            notice = b"\n[t9k] the log ends at its cap of %d bytes; EM_CAPTURE_MAX_BYTES changes it\n"
            whole, tail = (whole + tail)[:room] + notice % self._max_bytes, b""
            self._is_full = True
        try:
            self._put(whole + tail)
            self._start += len(whole)
            self._lost_bytes = 0
        except OSError:
            self._lost_bytes += len(data)
            self._line = b""

    def _put(self, data: bytes) -> None:
        end = self._start + len(data)
        position = self._start
        while position < end:
            position += os.pwrite(self._fd, data[position - self._start :], position)
        if end < self._end:
            os.ftruncate(self._fd, end)
        self._end = end


def pass_on(target: int, data: bytes) -> bool:
    """Writes all data to the original stream; tells whether there still is one."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(target, view) :]
        except OSError as error:
            if error.errno != errno.EAGAIN:
                return False
            select.select([], [target], [])
    return True


def copy(log: Log, pairs: dict[int, int]) -> None:
    """Copies until every source has no writer left."""
    sizes: dict[int, bytes] = {}
    poll = select.poll()
    for source in pairs:
        poll.register(source, select.POLLIN)
    while pairs:
        for source, _ in poll.poll(1000):
            try:
                data = os.read(source, 1 << 16)
            except OSError:  # EIO: the last writer of a terminal has gone
                data = b""
            if not data:
                poll.unregister(source)
                del pairs[source]
                continue
            if pairs[source] >= 0 and not pass_on(pairs[source], data):
                pairs[source] = -1
            log.write(data)
        for source, target in pairs.items():
            copy_window_size(target, source, sizes)


def copy_window_size(terminal: int, source: int, sizes: dict[int, bytes]) -> None:
    """Gives the script's terminal the size of the real one, if both are terminals."""
    if terminal < 0 or not os.isatty(terminal):
        return
    import fcntl
    import termios

    try:
        size = fcntl.ioctl(terminal, termios.TIOCGWINSZ, b"\0" * 8)
        if sizes.get(source) != size:
            fcntl.ioctl(source, termios.TIOCSWINSZ, size)
            sizes[source] = size
    except OSError:
        pass


def main(arguments: list[str]) -> None:
    """Detaches from the script, so that no wait() of it meets this process, and copies."""
    if os.fork():
        os._exit(0)
    # The last words come after a Ctrl-C, a hang-up or a scheduler's signal to everyone.
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    log_fd, max_bytes, alive_fd = map(int, arguments[:3])
    pairs = {int(source): int(target) for source, _, target in (pair.partition(":") for pair in arguments[3:])}
    keep = {0, 1, 2, log_fd, alive_fd, *pairs, *pairs.values()}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:  # a socket of the script must not stay open here
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.chdir("/")
    copy(Log(log_fd, max_bytes), pairs)


if __name__ == "__main__":
    main(sys.argv[1:])

"""``stdout.log``: all that a script, its children and its C libraries print.

Descriptors 1 and 2 are replaced by a pipe, or by a pseudo-terminal where they
were a terminal (so that ``isatty``, colours and the window size stay), and a
helper process copies what comes out to the original and to the log.

Why a helper process. A thread would die with the script and take along what
is still in the pipe; writing straight to the file leaves the terminal without
its output, or makes a full disk an error of ``print``. The helper lives until
the last writer has gone. If the helper itself is killed, a thread of the
script puts the original streams back and passes on what was under way: only
the log ends.

Not preserved: a terminal's name and its foreground process group
(``os.ttyname(1)``, ``os.tcgetpgrp(1)``), and a reader of the original that
goes away (``script | head``) does not end the script. What a replaced
``sys.stdout`` keeps from the descriptors is logged for notebooks only. Two originals that are
different files may be interleaved in the log in another order.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

MAX_BYTES = 64 << 20
"""Default cap of a log, set by EM_CAPTURE_MAX_BYTES."""

WAIT_S = 2.0
"""How long the end of a run waits for the helper; children that live on may hold the pipe."""

_HELPER = os.path.join(os.path.dirname(__file__), "output_helper.py")
_FIRST_FD = 64  # the helper gets its descriptors below this number, so none overwrites another


def is_wanted() -> bool:
    """Tells whether EM_CAPTURE and the interpreter allow output to be captured."""
    # An embedding program's sys.executable would start that program again.
    is_python = os.path.basename(sys.executable or "").startswith(("python", "pypy"))
    is_linux = sys.platform == "linux"
    return is_linux and is_python and not getattr(sys, "frozen", False) and os.environ.get("EM_CAPTURE") != "0"


def _cap_bytes() -> int:
    text = os.environ.get("EM_CAPTURE_MAX_BYTES", "")
    return int(text) if text.isdigit() else MAX_BYTES


def _high(fd: int) -> int:
    """Moves a descriptor above those the helper gets; it is not inherited."""
    import fcntl

    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_FD)
    os.close(fd)
    return moved


def _channel(original: int) -> tuple[int, int]:
    """Returns the reading and the writing end of what replaces an original stream."""
    if not os.isatty(original):
        reader, writer = os.pipe()
        return _high(reader), _high(writer)
    import fcntl
    import termios

    reader, writer = os.openpty()
    mode = termios.tcgetattr(writer)
    mode[1] &= ~termios.OPOST  # the real terminal does this
    termios.tcsetattr(writer, termios.TCSANOW, mode)
    fcntl.ioctl(writer, termios.TIOCSWINSZ, fcntl.ioctl(original, termios.TIOCGWINSZ, b"\0" * 8))
    return _high(reader), _high(writer)


def _identity(fd: int) -> tuple[int, int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino, status.st_rdev


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a stream of somebody else may be closed or of any kind
            stream.flush()
    if "ctypes" in sys.modules:  # C libraries buffer on their own
        import ctypes

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).fflush(None)


_active: list[OutputCapture] = []


class OutputCapture:
    """One log of this process's output, from construction to `stop`.

    A forked child goes on writing into the log; `stop` is the creator's.
    """

    def __init__(self, log_path: str) -> None:
        """Replaces descriptors 1 and 2; on an error they are as before.

        Raises:
            OSError: No descriptors, no process, or no log file.
        """
        self._pid = os.getpid()
        self._saved: dict[int, int] = {}
        self._ours: dict[int, tuple[int, int, int]] = {}
        self._readers: dict[int, int] = {}
        self._undo: list[Callable[[], None]] = []
        self._outer: list[OutputCapture] = []
        self._is_stopped = False
        _flush()
        with contextlib.ExitStack() as undo:
            writers = self._open(undo)
            log_fd = _high(os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666))
            undo.callback(os.close, log_fd)
            alive, alive_helper = map(_high, os.pipe())
            with contextlib.ExitStack() as late:
                late.callback(os.close, alive_helper)
                pid = _spawn(log_fd, alive_helper, self._readers)
            for fd, writer in writers.items():
                if fd in self._saved:
                    self._ours[fd] = _identity(writer)
                    os.dup2(writer, fd)
            self._tee_notebook(writers)
            undo.pop_all()
            os.close(log_fd)
        for writer in {writer for fd, writer in writers.items() if fd in self._saved}:
            os.close(writer)
        self._set_line_buffering()
        self._watcher = threading.Thread(target=self._watch, args=(pid, alive), name="t9k-output", daemon=True)
        self._watcher.start()
        _active.append(self)

    def _open(self, undo: contextlib.ExitStack) -> dict[int, int]:
        """Makes a channel for each stream that is open; one for both if they go to the same place."""
        writers: dict[int, int] = {}
        places: dict[tuple[int, int, int], int] = {}
        for fd in (1, 2):
            try:
                place = _identity(fd)
            except OSError:
                continue
            self._saved[fd] = _high(os.dup(fd))
            undo.callback(os.close, self._saved[fd])
            if place in places:
                writers[fd] = writers[places[place]]
                continue
            places[place] = fd
            reader, writers[fd] = _channel(fd)
            undo.callback(os.close, reader)
            undo.callback(os.close, writers[fd])
            self._readers[reader] = self._saved[fd]
        if any(type(stream).__module__.startswith("ipykernel") for stream in (sys.stdout, sys.stderr)):
            reader, writers[-1] = map(_high, os.pipe())
            undo.callback(os.close, reader)
            undo.callback(os.close, writers[-1])
            self._readers[reader] = -1
        return writers

    def _tee_notebook(self, writers: dict[int, int]) -> None:
        # A notebook's streams do not reach the descriptors; their text goes to the log alone.
        if -1 not in writers:
            return
        for stream in (sys.stdout, sys.stderr):
            if type(stream).__module__.startswith("ipykernel"):
                self._undo.append(_NotebookEcho(stream, writers[-1]).restore)
        self._undo.append(lambda: os.close(writers[-1]))

    def _set_line_buffering(self) -> None:
        # What was printed must be in the pipe before a SIGKILL, also under nohup or a scheduler.
        streams: list[Any] = [sys.stdout, sys.stderr]
        for stream in streams:
            try:
                if stream.fileno() in self._saved and not stream.line_buffering:
                    stream.reconfigure(line_buffering=True)
                    self._undo.append(_restore_buffering(stream))
            except (OSError, ValueError, AttributeError):
                continue

    def stop(self) -> None:
        """Puts the original streams back and waits until all is in the log; again, it does nothing."""
        if self._is_stopped or os.getpid() != self._pid:
            return
        _flush()
        self._is_stopped = True
        self._restore()
        _active.remove(self)
        for later in _active:
            later._lean_on(self)
        for action in self._undo:
            with contextlib.suppress(OSError, ValueError):
                action()
        deadline_s = time.monotonic() + WAIT_S
        for capture in (self, *self._outer):
            if threading.current_thread() is not capture._watcher:
                capture._watcher.join(max(0.0, deadline_s - time.monotonic()))

    def _restore(self) -> None:
        for fd, saved in self._saved.items():
            with contextlib.suppress(OSError):
                if _identity(fd) == self._ours[fd]:  # else somebody has redirected it since
                    os.dup2(saved, fd)

    def _lean_on(self, ended: OutputCapture) -> None:
        # A run that began inside another one outlives it: its end must not go back into the other's pipe.
        for fd, saved in self._saved.items():
            with contextlib.suppress(OSError, KeyError):
                if _identity(saved) == ended._ours[fd]:
                    os.dup2(ended._saved[fd], saved, inheritable=False)
                    # Its helper goes on through the other's: what is printed next must not overtake that.
                    if ended not in self._outer:
                        self._outer += [ended, *ended._outer]

    def _watch(self, pid: int, alive: int) -> None:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)  # the helper's parent, which ends at once
        with contextlib.suppress(OSError):
            os.read(alive, 1)  # returns when the helper has gone
        if not self._is_stopped:
            self._restore()
        from t9k.em.capture.output_helper import pass_on

        # After a regular end nothing is left. After a killed helper the rest goes on from here.
        forwards = []
        for reader, saved in self._readers.items():
            thread = threading.Thread(target=_forward, args=(reader, saved, pass_on), daemon=True)
            try:
                thread.start()
                forwards.append(thread)
            except RuntimeError:  # from Python 3.12 on there are no new threads while the interpreter ends
                _forward(reader, saved, pass_on)
        for thread in forwards:
            thread.join()
        for fd in (alive, *self._saved.values()):
            os.close(fd)


class _NotebookEcho:
    """Takes the place of the echo of a notebook's stream, which is given all that the stream shows.

    Not of its ``write``: IPython replaces that at the begin of a cell, and
    puts back what it was at the end.
    """

    def __init__(self, stream: Any, writer: int) -> None:
        self._stream = stream
        self._writer = writer
        self._pid = os.getpid()
        self._original = getattr(stream, "echo", None)
        stream.echo = self

    def write(self, text: str) -> None:
        # What the stream's own thread reads from a descriptor has been logged on its way there.
        is_logged = threading.current_thread() is getattr(self._stream, "watch_fd_thread", None)
        if self._writer >= 0 and not is_logged and os.getpid() == self._pid:
            with contextlib.suppress(OSError):
                os.write(self._writer, text.encode("utf-8", "replace"))
        if self._original is not None:
            self._original.write(text)

    def flush(self) -> None:
        if self._original is not None:
            self._original.flush()

    def restore(self) -> None:
        self._writer = -1
        if self._stream.echo is self:  # else a later run's stands on it, and it only passes on
            self._stream.echo = self._original


def _forward(reader: int, target: int, pass_on: Callable[[int, bytes], bool]) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(reader, 1 << 16):
            if target >= 0:
                pass_on(target, data)
    os.close(reader)


def _restore_buffering(stream: Any) -> Callable[[], None]:
    return lambda: stream.reconfigure(line_buffering=False)


def _spawn(log_fd: int, alive_fd: int, pairs: dict[int, int]) -> int:
    """Starts the helper with these descriptors and nothing else of this process."""
    numbers = {fd: 3 + index for index, fd in enumerate([log_fd, alive_fd, *pairs, *pairs.values()])}
    names = [f"{numbers[source]}:{numbers[target] if target >= 0 else -1}" for source, target in pairs.items()]
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    moves = [(os.POSIX_SPAWN_DUP2, fd, number) for fd, number in numbers.items() if fd >= 0]
    arguments = [str(numbers[log_fd]), str(_cap_bytes()), str(numbers[alive_fd]), *names]
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", _HELPER, *arguments],
        os.environ,
        file_actions=[*null, *moves],
        setsid=True,  # a signal to the script's group, or its terminal's end, is not for the helper
    )

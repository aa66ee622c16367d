"""Progress of long calls: when it shows, where, and what it leaves on a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from t9k import em
from t9k.em import _engine, progress
from t9k.em.cli import digests
from t9k.em.progress import Progress

pytestmark = pytest.mark.usefixtures("directory")

GIB = 1 << 30


class Clock:
    """A clock that goes on when it is told to, and at each look by `step_s`."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.step_s = 0.0
        self.ends_s = float("inf")

    def __call__(self) -> float:
        now = self.now_s
        if now > self.ends_s:
            raise KeyboardInterrupt
        self.now_s += self.step_s
        return now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.delenv("EM_QUIET", raising=False)
    clock = Clock()
    monkeypatch.setattr(progress, "monotonic", clock)
    return clock


def test_two_seconds_of_silence_then_a_line_each_ten(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("add") as shown:
        for now, line in [
            (0.0, ""),
            (1.99, ""),
            (2.0, "add: 1 of 2 files, 3.0 KiB of 4.0 KiB\n"),
            (11.99, ""),
            (12.0, "add: 1 of 2 files, 3.0 KiB of 4.0 KiB\n"),
            (21.99, ""),
            (40.0, "add: 1 of 2 files, 3.0 KiB of 4.0 KiB\n"),
            (49.99, ""),
        ]:
            clock.now_s = now
            shown(1, 3 << 10, 2, 4 << 10)
            assert capsys.readouterr() == ("", line), now


@pytest.mark.usefixtures("clock")
def test_line_says_what_is_known(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SILENT_S", 0.0)
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.0)
    for noun, counts, said in [
        (None, (0, 0, 12_000, 0), "12,000 files found"),
        (None, (3, 5 << 20, 0, 0), "3 files, 5.0 MiB"),
        ("entries", (12_000, 0, 0, 0), "12,000 entries"),
        ("entries", (3, 0, 12_000, 0), "3 of 12,000 entries"),
    ]:
        with Progress("x", noun) as shown:
            shown(*counts)
        assert capsys.readouterr().err == f"x: {said}\n"


@pytest.mark.parametrize(
    ("silence", "is_shown"),
    [
        (lambda: None, True),
        (lambda: logging.getLogger("t9k.em").setLevel(logging.INFO), True),
        (lambda: logging.getLogger().setLevel(logging.ERROR), True),
        (lambda: logging.getLogger("t9k.em").setLevel(logging.WARNING), False),
        (lambda: logging.getLogger("t9k").setLevel(logging.ERROR), False),
        (lambda: setattr(logging.getLogger("t9k.em"), "disabled", True), False),
        (lambda: logging.disable(logging.INFO), False),
        (lambda: os.environ.__setitem__("EM_QUIET", "1"), False),
    ],
)
def test_logger_and_variable_silence_it(
    silence: Callable[[], None],
    is_shown: bool,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EM_QUIET", "")
    before = [(logger, logger.level) for logger in map(logging.getLogger, ("t9k.em", "t9k", None))]
    try:
        silence()
        with Progress("add") as shown:
            clock.now_s = 3.0
            shown(1, 1, 1, 1)
    finally:
        for logger, level in before:
            logger.setLevel(level)
            logger.disabled = False
        logging.disable(logging.NOTSET)
    assert bool(capsys.readouterr().err) == is_shown


def long_file(name: str) -> str:
    """Takes minutes to read and no room."""
    with open(name, "wb") as file:
        file.truncate(400 * GIB)
    return name


def add_dir() -> None:
    Path("d").mkdir()
    long_file("d/long")
    em.create_artifact("x").add_dir("d")


def add_file() -> None:
    em.create_artifact("x").add_file(long_file("long"))


def hash_files() -> None:
    digests.print_digests([long_file("long")])


def hash_directory() -> None:
    Path("d").mkdir()
    long_file("d/long")
    Path("d/first").write_bytes(bytes(3 << 20))
    digests.print_digests(["d"])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (add_dir, r"add: 0 of 1 files, .* of 400\.0 GiB"),
        (add_file, r"add: 0 of 1 files, .* of 400\.0 GiB"),
        (hash_files, r"hash: 0 of 1 files, .* of 400\.0 GiB"),
        (hash_directory, r"hash: 1 files, .*"),
    ],
)
def test_calls_of_the_engine_say_a_line_each_ten_seconds(
    call: Callable[[], None], line: str, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine tells ten times a second, each of which is four seconds here; KeyboardInterrupt is as of Ctrl-C."""
    clock.step_s, clock.ends_s = 4.0, 30.0
    with pytest.raises(KeyboardInterrupt):
        call()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3, lines  # at 4, 16 and 28 seconds
    assert re.fullmatch(line, lines[-1]), lines  # the first may come before anything is known


def em_at_once(*args: str) -> list[str]:
    """The command, which shows progress from the beginning."""
    code = "from t9k.em import progress as p; p.SILENT_S = p.LINE_EVERY_S = 0; from t9k.em.cli import main; main()"
    return [sys.executable, "-c", code, *args]


def test_ctrl_c_in_the_last_report_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_THREADS", "1")
    with Path("sparse").open("wb") as file:
        file.truncate(GIB // 2)
    ends = []

    def interrupt(_: int, size_bytes: int, *__: int) -> None:
        if size_bytes == GIB // 2:
            ends.append(size_bytes)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        assert _engine.hash_file("sparse", interrupt)
    assert ends


@pytest.mark.usefixtures("strace")
@pytest.mark.parametrize(("verb", "when"), [("gc", "1"), ("du", "2"), ("diff", "2")])
def test_verbs_that_read_manifests_show_progress(verb: str, when: str) -> None:
    """Opening the manifest takes half a second by strace, the first or second time in a thread."""
    Path("file").write_text("one")
    artifact = em.create_artifact("x")
    artifact.add_file("file", "a")
    artifact.add_file("file", "b")
    (manifest,) = Path(artifact.local, ".artifact").glob("manifest-*")
    options = [artifact.local] * 2 if verb == "diff" else []
    below = Path(".em/store/../artifacts", artifact.alternative_name, ".artifact", manifest.name)
    by = (manifest, os.path.relpath(manifest), below)  # as the verbs name it
    strace = ["strace", "-f", "-o", "/dev/null", *(word for path in by for word in ("-P", str(path)))]
    inject = ["-e", f"inject=openat:delay_enter=500000:when={when}"]
    done = subprocess.run([*strace, *inject, *em_at_once(verb, *options)], capture_output=True, text=True, check=True)
    assert re.search(rf"^{verb}: \d+ entries", done.stderr, re.MULTILINE), done.stderr


@pytest.mark.usefixtures("strace")
def test_scan_tells_what_it_finds_and_the_end_is_told() -> None:
    """Listing each of two directories takes 0.3 s by strace."""
    for name in "ab":
        Path("d", name).mkdir(parents=True)
        Path("d", name, "file").write_text(name)
    artifact = em.create_artifact("x")
    Path("script.py").write_text(
        "from t9k.em import _engine\n"
        "told = []\n"
        f"_engine.add_dir('.em/store', {artifact.local!r}, 'd', 'd', lambda *counts: told.append(counts))\n"
        "assert (0, 0, 1, 0) in told, told\n"
        "assert told[-1] == (2, 2, 2, 2), told\n"
    )
    inject = ["-P", "a", "-P", "b", "-e", "inject=openat:delay_enter=300000"]
    command = ["strace", "-f", "-o", "/dev/null", *inject, sys.executable, "script.py"]
    done = subprocess.run(command, env=os.environ | {"EM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def terminal(columns: int, *args: str, **environment: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The command on a terminal that controls it, so that ^C interrupts it."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("4H", 24 if columns else 0, columns, 0, 0))

    def control() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        em_at_once(*args),
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
        preexec_fn=control,
        env=os.environ | {"TERM": "xterm", "EM_QUIET": ""} | environment,
    )
    os.close(side)
    try:
        yield main, process
    finally:
        process.kill()
        process.wait()
        os.close(main)


def read_until(main: int, pattern: str | None) -> str:
    """What a terminal is sent until the pattern is there, or all of it."""
    shown = ""
    with contextlib.suppress(OSError):  # the other side is closed
        while pattern is None or not re.search(pattern, shown):
            shown += os.read(main, 1 << 16).decode()
    return shown


def lines(shown: str) -> list[str]:
    """What stands on a terminal in the end."""
    screen = []
    for line in shown.split("\n"):
        row = ""
        for part in line.split("\r"):
            row = part + row[len(part) :]
        screen.append(row.rstrip())
    return screen


@pytest.mark.parametrize("columns", [80, 30, 0])
def test_bar_fits_the_terminal_and_ctrl_c_leaves_clean_lines(columns: int) -> None:
    with terminal(columns, "add", long_file("long")) as (main, process):
        shown = read_until(main, r"\radd: +\d+%.*\radd: +\d+%")
        os.write(main, b"\x03")
        shown += read_until(main, None)
        assert process.wait(60) == 130
    drawn = [part for part in re.split(r"[\r\n]", shown.replace("^C", "")) if part.startswith("add:")]
    assert max(map(len, drawn)) < (columns or 80)
    bar, *rest = lines(shown)
    assert re.match(r"add: +\d+%\|.*400" if columns != 30 else r"add: +\d+%\|", bar), bar
    assert [line for line in rest if line] == [
        "Interrupted; no artifact was made. What was stored meanwhile makes the next try fast; `em gc` reclaims it"
    ]
    assert "\x1b" not in shown


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"EM_QUIET": "1"}, {"NO_COLOR": "1"}])
def test_dumb_terminal_has_lines_and_quiet_has_nothing(variables: dict[str, str]) -> None:
    with terminal(80, "add", long_file("long"), **variables) as (main, process):
        shown = ""
        if "EM_QUIET" in variables:
            wait_for_temporary()
        else:
            shown = read_until(main, r"add: 0 of 1 files" if "TERM" in variables else r"\radd: +\d+%")
        os.write(main, b"\x03")
        shown += read_until(main, None)
        assert process.wait(60) == 130
    assert ("\radd" in shown) == ("NO_COLOR" in variables)
    if "EM_QUIET" in variables:
        assert "add:" not in shown


def wait_for_temporary() -> None:
    """Until an object is being written."""
    waiting = threading.Event()
    while not list(Path(".em/store/objects").glob("??/.tmp-*")):
        waiting.wait(0.01)
    waiting.wait(0.3)  # the engine tells ten times a second


def test_digests_on_a_terminal_stand_on_lines_of_their_own() -> None:
    Path("d").mkdir()
    for name in "ab":
        Path("d", name).write_bytes(b"x")
    with terminal(100, "hash", "d/a", "d/b", long_file("long")) as (main, process):
        shown = read_until(main, r"\rhash: +\d+%.*\rhash: +\d+%")
        os.write(main, b"\x03")
        shown += read_until(main, None)
        assert process.wait(60) == 130
    first, second, bar, *_ = lines(shown)
    assert re.fullmatch("[0-9a-f]{64}  d/a", first)
    assert re.fullmatch("[0-9a-f]{64}  d/b", second)
    assert re.match(r"hash: +\d+%.* 2 of 3 files", bar)


def test_stderr_that_nobody_reads_ends_no_call(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone:
        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> int:
            raise BrokenPipeError

    for stderr in (Gone(), None):
        clock.now_s = 0.0
        monkeypatch.setattr(sys, "stderr", stderr)
        with Progress("add") as shown:
            for clock.now_s in (3.0, 30.0):
                shown(1, 1, 1, 1)


def test_bar_starts_no_thread_and_no_process(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    main, side = pty.openpty()
    with open(side, "w") as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setenv("TERM", "xterm")
        before = threading.active_count()
        with Progress("add") as shown:
            clock.now_s = 3.0
            shown(1, 1, 2, 4)
            assert threading.active_count() == before
            shown(2, 4, 2, 4)
        assert threading.active_count() == before
    assert "100%" in read_until(main, None)
    os.close(main)

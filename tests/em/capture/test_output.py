"""stdout.log: what reaches it, what the terminal still sees, and what happens when something dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from t9k.em.capture.output_helper import Log, collapse

HEAD = "import os, signal, subprocess, sys\nfrom t9k.em.run import create_run\nr = create_run()\n"


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def _environ(parent: Path, **more: str) -> dict[str, str]:
    return os.environ | {"EM_RUN_PARENT_DIR": str(parent), "EM_CAPTURE": "1"} | more


def _script(parent: Path, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", HEAD + code],
        env=_environ(parent, **more),
        capture_output=True,
        text=True,
        timeout=60,
    )


def _log(parent: Path) -> str:
    (run,) = parent.iterdir()
    return (run / "stdout.log").read_text()


def test_prints_children_and_c_library_reach_terminal_and_log(parent: Path) -> None:
    done = _script(
        parent,
        "import ctypes\nprint('from python')\nprint('to stderr', file=sys.stderr)\n"
        "subprocess.run(['sh', '-c', 'echo from child; echo child error >&2'])\n"
        "ctypes.CDLL(None).puts(b'from c')\n",
    )
    assert done.stdout.splitlines() == ["from python", "from child", "from c"]
    assert done.stderr.splitlines() == ["to stderr", "child error"]
    assert sorted(_log(parent).splitlines()) == sorted(done.stdout.splitlines() + done.stderr.splitlines())


def test_sigkill_swallows_nothing(parent: Path) -> None:
    done = _script(parent, "for i in range(20000): print(i)\nos.kill(os.getpid(), signal.SIGKILL)\n")
    expected = "".join(f"{index}\n" for index in range(20000))
    assert done.returncode == -signal.SIGKILL
    assert done.stdout == expected
    assert _log(parent) == expected


def test_order_of_both_streams_is_kept_where_they_are_one(parent: Path) -> None:
    code = HEAD + "for i in range(500): print(i); print('e', i, file=sys.stderr)\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=_environ(parent),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )
    assert done.stdout == "".join(f"{index}\ne {index}\n" for index in range(500)) == _log(parent)


def test_traceback_of_the_script_is_in_the_log(parent: Path) -> None:
    done = _script(parent, "print('x')\n1 / 0\n")
    assert "ZeroDivisionError" in done.stderr
    assert "ZeroDivisionError" in _log(parent)
    assert "Failed" in next(parent.iterdir()).joinpath("metadata.yaml").read_text()


def test_text_of_an_exit_is_in_the_log(parent: Path) -> None:
    done = _script(parent, "print('x')\nraise SystemExit('no data')\n")
    assert (done.returncode, done.stderr) == (1, "no data\n")
    assert sorted(_log(parent).splitlines()) == ["no data", "x"]


def test_output_after_finish_goes_to_the_original_only(parent: Path) -> None:
    done = _script(parent, "print('in')\nr.finish()\nprint('after')\n")
    assert done.stdout == "in\nafter\n"
    assert _log(parent) == "in\n"


def test_em_capture_0_leaves_the_descriptors_alone(parent: Path) -> None:
    done = _script(parent, "print('x')\n", EM_CAPTURE="0")
    assert done.stdout == "x\n"
    assert _log(parent) == ""


def test_forked_children_share_the_log_and_do_not_end_it(parent: Path) -> None:
    done = _script(
        parent,
        "pid = os.fork()\nsys.stdout.write('parent\\n' if pid else 'child\\n')\n"  # one write, whatever the buffering
        "if pid: os.waitpid(pid, 0); print('end')\n",
    )
    assert sorted(done.stdout.split()) == ["child", "end", "parent"]
    assert sorted(_log(parent).split()) == ["child", "end", "parent"]


def test_child_that_lives_on_neither_blocks_the_exit_nor_loses_its_output(parent: Path) -> None:
    start = time.monotonic()
    code = HEAD + "subprocess.Popen(['sh', '-c', 'sleep 4; echo late'])\nprint('x')\n"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], env=_environ(parent), stdout=subprocess.PIPE, text=True
    ) as process:
        process.wait(30)
        assert time.monotonic() - start < 3.8
        assert process.stdout is not None
        assert process.stdout.read() == "x\nlate\n"
    assert _log(parent) == "x\nlate\n"


def test_killed_helper_ends_the_log_and_not_the_output(parent: Path) -> None:
    done = _script(
        parent,
        "import time, glob\nprint('before')\n"
        "while not os.path.getsize(r.local + '/stdout.log'): time.sleep(0.01)\n"
        "for path in glob.glob('/proc/[0-9]*'):\n"
        "    try:\n"
        "        words = open(path + '/cmdline', 'rb').read().split(b'\\0')\n"
        "        links = [os.readlink(path + '/fd/' + n) for n in os.listdir(path + '/fd')]\n"
        "    except OSError: continue\n"
        "    if len(words) > 3 and words[3].endswith(b'output_helper.py') and r.local + '/stdout.log' in links:\n"
        "        os.kill(int(path.split('/')[2]), signal.SIGKILL)\n"
        "for i in range(50000): print(i)\n",
    )
    assert done.returncode == 0
    # What was under way is passed on beside what is printed meanwhile: nothing is lost, lines may mix.
    assert sorted(done.stdout) == sorted("before\n" + "".join(f"{index}\n" for index in range(50000)))


def test_no_zombie_child_meets_the_scripts_wait(parent: Path) -> None:
    done = _script(
        parent,
        "import time\n"
        "for _ in range(600):  # half a minute: its parent reaps it when it comes to run\n"
        "    try:\n        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)\n"
        "    except ChildProcessError:\n        print('none')\n        break\n"
        "    time.sleep(0.05)\n",
    )
    assert done.stdout == "none\n"


def test_descriptors_do_not_leak_over_many_runs(parent: Path) -> None:
    done = _script(
        parent,
        "r.finish()\nimport time\ntime.sleep(0.2)\nn = len(os.listdir('/proc/self/fd'))\n"
        "for _ in range(5): create_run().finish()\ntime.sleep(0.2)\nprint(len(os.listdir('/proc/self/fd')) - n)\n",
    )
    assert done.stdout == "0\n"


def test_closed_stdout_is_no_error(parent: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" >&-', sys.executable, HEAD + "print('err', file=sys.stderr)\n"],
        env=_environ(parent),
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "err\n")
    assert _log(parent) == "err\n"


def test_terminal_stays_a_terminal_with_its_size(parent: Path) -> None:
    import fcntl
    import struct
    import termios

    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    code = HEAD + "print(sys.stdout.isatty(), sys.stderr.isatty(), os.get_terminal_size(1).columns)\n"
    process = subprocess.Popen([sys.executable, "-c", code], env=_environ(parent), stdout=slave, stderr=slave)
    assert process.wait(30) == 0
    os.close(slave)
    assert os.read(master, 1000) == b"True True 111\r\n"
    os.close(master)
    assert _log(parent) == "True True 111\n"


def test_capture_inside_pytests_own_capture(
    parent: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from t9k.em.run import create_run

    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(parent))
    monkeypatch.setenv("EM_CAPTURE", "1")
    run = create_run()
    print("printed")
    os.write(1, b"written\n")
    subprocess.run(["echo", "child"], check=True)
    run.finish()
    print("after")
    assert sorted(capfd.readouterr().out.split()) == ["after", "child", "printed", "written"]
    assert sorted(_log(parent).split()) == ["child", "written"]  # pytest's own sys.stdout has no descriptor 1


def test_descriptor_redirected_by_somebody_else_stays_theirs(parent: Path) -> None:
    done = _script(
        parent, "os.dup2(os.open(os.environ['EM_RUN_PARENT_DIR'] + '.txt', 65), 1)\nr.finish(); print('x')\n"
    )
    assert done.stdout == ""
    assert Path(f"{parent}.txt").read_text() == "x\n"


def test_two_runs_at_once_end_in_any_order(parent: Path) -> None:
    done = _script(parent, "print('a')\nq = create_run()\nprint('b')\nr.finish()\nprint('c')\nq.finish()\nprint('d')\n")
    assert done.stdout.split() == ["a", "b", "c", "d"]
    assert sorted(path.joinpath("stdout.log").read_text() for path in parent.iterdir()) == ["a\nb\nc\n", "b\nc\n"]


def test_output_behind_an_inner_run_does_not_overtake_the_outer_ones_helper(parent: Path) -> None:
    # The outer run's helper is stopped: what the inner run printed waits in its pipe, and the script for that.
    done = _script(
        parent,
        "import threading\n"
        "def helpers():\n"
        "    found = set()\n"
        "    for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "        try:\n            with open(f'/proc/{pid}/cmdline') as file: words = file.read()\n"
        "        except OSError: continue\n"
        "        if 'output_helper.py' in words and os.path.realpath(f'/proc/{pid}/fd/3') == r.local + '/stdout.log':\n"
        "            found.add(int(pid))\n"
        "    return found\n"
        "q = create_run()\nr.finish()\nouter = helpers()\nassert len(outer) == 1\n"
        "for pid in outer: os.kill(pid, signal.SIGSTOP)\n"
        "print('in')\n"
        "threading.Timer(0.3, lambda: [os.kill(pid, signal.SIGCONT) for pid in outer]).start()\n"
        "q.finish()\nprint('after')\n",
    )
    assert (done.stdout.split(), done.stderr) == (["in", "after"], "")


@pytest.mark.parametrize(
    ("line", "shown"),
    [(b" 1%\r 2%\r100%", b"100%"), (b"crlf\r", b"crlf"), (b"plain", b"plain"), (b"\r\r", b""), (b"a\r\rb\r\r", b"b")],
)
def test_carriage_returns_leave_the_last_part(line: bytes, shown: bytes) -> None:
    assert collapse(line) == shown


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    (tmp_path / "log").touch()
    return tmp_path / "log"


def _open(path: Path, max_bytes: int = 1 << 20) -> Log:
    return Log(os.open(path, os.O_RDWR), max_bytes)


def test_progress_bar_is_one_line_that_is_on_disk_at_every_moment(log_path: Path) -> None:
    log = _open(log_path)
    log.write(b"start\n")
    for percent in (1, 50, 100, 7):
        log.write(b"\r%d%%" % percent)
        assert log_path.read_bytes() == b"start\n%d%%" % percent
    log.write(b"\n\xff end")
    assert log_path.read_bytes() == b"start\n7%\n\xff end"


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_any_split_of_the_output_gives_the_same_log(log_path: Path, size: int) -> None:
    data = b"".join(b"\r%d%%" % (index % 101) + b"\n" * (index % 9 == 0) for index in range(300)) + b"tail"
    log = _open(log_path)
    for start in range(0, len(data), size):
        log.write(data[start : start + size])
    assert log_path.read_bytes() == b"\n".join(collapse(line) for line in data.split(b"\n"))


def test_cap_ends_the_log_with_a_notice(log_path: Path) -> None:
    log = _open(log_path, 100)
    for _ in range(100):
        log.write(b"0123456789\n")
    text = log_path.read_text()
    assert text.startswith("0123456789\n" * 9)
    assert "cap of 100 bytes" in text
    assert len(text) < 250


def test_full_disk_drops_output_and_says_so_when_there_is_room(log_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = _open(log_path)
    log.write(b"a\n")

    def full(fd: int, data: bytes, offset: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        log.write(b"lost\n")
    log.write(b"b\n")
    assert log_path.read_bytes() == b"a\n[t9k] 5 bytes of output are missing here\nb\n"


def test_endless_line_is_bounded_in_memory(log_path: Path) -> None:
    log = _open(log_path)
    for _ in range(10):
        log.write(b"x" * 50_000)
        assert len(log._line) <= 64 << 10
    assert log_path.stat().st_size == 500_000

"""States of a run by how its process ended, and who may judge that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from t9k.em.capture import exit_code, heartbeat
from t9k.em.errors import NotFoundError
from t9k.em.run import create_run, load_run

HEAD = "import os, signal, sys, time\nfrom t9k.em.run import create_run\nr = create_run()\n"


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(tmp_path / "runs"))
    return tmp_path / "runs"


def _script(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HEAD + code], capture_output=True, text=True, timeout=60)


def _only(parent: Path) -> str:
    (path,) = parent.iterdir()
    return str(path)


def test_uncaught_exception_marks_failed_with_its_traceback(parent: Path) -> None:
    done = _script("r.log('train', {'a': 1}, 1)\nraise KeyError('lost')\n")
    assert done.stderr.count("KeyError: 'lost'") == 1
    run = load_run(_only(parent))
    assert run.status == "Failed"
    assert "KeyError: 'lost'" in run._error


def test_hook_of_the_script_is_called_too(parent: Path) -> None:
    code = "import sys\nsys.excepthook = lambda *a: print('mine')\n" + HEAD + "1 / 0\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "mine\n"
    assert load_run(_only(parent)).status == "Failed"


def test_sigterm_marks_failed_and_ends_by_the_signal(parent: Path) -> None:
    done = _script("r.log('train', {'a': 1}, 1)\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(20)\n")
    assert done.returncode == -signal.SIGTERM
    run = load_run(_only(parent))
    assert (run.status, run._error) == ("Failed", "stopped by SIGTERM")


def test_sigterm_during_a_stream_of_logs_does_not_hang(parent: Path) -> None:
    code = "import threading\nthreading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()\n"
    done = _script(code + "i = 0\nwhile True:\n    i += 1\n    r.log('train', {'a': i}, i)\n    r.params.i = i\n")
    assert done.returncode == -signal.SIGTERM
    assert load_run(_only(parent)).status == "Failed"


def test_end_in_the_midst_of_a_write_does_not_wait_for_who_wants_to_write_next(parent: Path) -> None:
    done = _script(
        "import threading\nfrom t9k.em import hparams_file\n"
        "real, others = hparams_file.write_yaml, [threading.Thread(target=r._save_capture, args=('git', {'a': 1}))]\n"
        "def write(*arguments):\n"
        "    if others:\n"
        "        others.pop().start()\n"
        "        time.sleep(0.2)  # it waits for a lock of this thread, perhaps with one of its own\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return real(*arguments)\n"
        "hparams_file.write_yaml = write\nr.params.a = 1\n"
    )
    assert done.returncode == -signal.SIGTERM
    run = load_run(_only(parent))
    assert (run.status, run._error) == ("Failed", "stopped by SIGTERM")


def test_sigterm_handler_of_the_script_stays(parent: Path) -> None:
    code = "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *a: sys.exit(3))\n" + HEAD
    done = subprocess.run(
        [sys.executable, "-c", code + "os.kill(os.getpid(), 15)\ntime.sleep(20)\n"], capture_output=True, timeout=60
    )
    assert done.returncode == 3
    assert load_run(_only(parent))._error == "exited with code 3"


def test_forked_child_is_terminated_by_default_and_leaves_the_run(parent: Path) -> None:
    done = _script(
        "pid = os.fork()\nif not pid:\n    assert signal.getsignal(15) is signal.SIG_DFL; time.sleep(20)\n"
        "time.sleep(0.2); os.kill(pid, 15); print(os.waitpid(pid, 0)[1], r.status)\n"
    )
    assert done.stdout == "15 Running\n"
    assert load_run(_only(parent)).status == "Complete"


def test_exception_in_a_forked_child_leaves_the_run(parent: Path) -> None:
    _script("pid = os.fork()\nif not pid: 1 / 0\nos.waitpid(pid, 0)\n")
    assert load_run(_only(parent)).status == "Complete"


def test_kill_before_the_metadata_is_explained(parent: Path) -> None:
    run = create_run()
    run.finish()
    os.unlink(os.path.join(run.local, "metadata.yaml"))
    with pytest.raises(NotFoundError, match="while it created the run"):
        load_run(run.local)
    (parent / "nothing_260101_000000_abcdef").mkdir()
    with pytest.raises(NotFoundError, match="while it created the run"):
        load_run(str(parent / "nothing_260101_000000_abcdef"))


def _process(**change: object) -> dict[str, object]:
    return heartbeat.identify() | change


def test_this_process_lives_however_old_its_heartbeat(tmp_path: Path) -> None:
    heartbeat.beat(str(tmp_path))
    os.utime(tmp_path / heartbeat.FILE, (0, 0))
    assert not heartbeat.is_gone(_process(), str(tmp_path))


def test_number_given_to_another_process_is_gone(tmp_path: Path) -> None:
    heartbeat.beat(str(tmp_path))
    assert heartbeat.is_gone(_process(start="1"), str(tmp_path))
    assert heartbeat.is_gone(_process(pid=1 << 23), str(tmp_path))


@pytest.mark.parametrize(
    "change", [{"boot": "another"}, {"host": "another", "boot": "x"}, {"pid_namespace": "pid:[1]"}]
)
def test_from_elsewhere_the_heartbeat_decides(tmp_path: Path, change: dict[str, object]) -> None:
    process = _process(start="1", **change)
    heartbeat.beat(str(tmp_path))
    assert not heartbeat.is_gone(process, str(tmp_path))
    old = time.time() - heartbeat.STALE_S - 1
    os.utime(tmp_path / heartbeat.FILE, (old, old))
    assert heartbeat.is_gone(process, str(tmp_path))
    ahead = time.time() + 3600
    os.utime(tmp_path / heartbeat.FILE, (ahead, ahead))
    assert not heartbeat.is_gone(process, str(tmp_path))


def test_records_of_before_are_judged_by_host_and_process(tmp_path: Path) -> None:
    here = heartbeat.identify()
    old = {name: here[name] for name in ("host", "pid", "start")}
    assert not heartbeat.is_gone(old, str(tmp_path))
    assert heartbeat.is_gone(old | {"start": "1"}, str(tmp_path))
    assert not heartbeat.is_gone(old | {"host": "another"}, str(tmp_path))
    assert not heartbeat.is_gone({}, str(tmp_path))


def test_zombie_counts_as_gone() -> None:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert heartbeat.process_start(pid) == ""
    os.waitpid(pid, 0)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("sys.exit(3)", "Failed", "exited with code 3"),
        ("sys.exit(True)", "Failed", "exited with code True"),
        ("sys.exit('no data')", "Failed", "exited: no data"),
        ("import argparse; argparse.ArgumentParser().parse_args(['--nonsense'])", "Failed", "exited with code 2"),
        ("sys.exit()", "Complete", ""),
        ("sys.exit(0)", "Complete", ""),
        ("sys.exit(None)", "Complete", ""),
        ("exit(0)", "Complete", ""),
        ("exit(4)", "Failed", "exited with code 4"),
        ("quit(code='no data')", "Failed", "exited: no data"),
        ("raise SystemExit(1)", "Failed", "exited with code 1"),
        ("raise SystemExit('no data')", "Failed", "exited: no data"),
        ("raise SystemExit(2, 'no data')", "Failed", "exited: (2, 'no data')"),
        ("raise SystemExit", "Complete", ""),
        ("raise SystemExit(0)", "Complete", ""),
        ("raise type('Exit', (SystemExit,), {})(6)", "Failed", "exited with code 6"),
        ("raise KeyboardInterrupt", "Failed", "KeyboardInterrupt"),
    ],
)
def test_exit_code_decides_the_status(parent: Path, code: str, status: str, error: str) -> None:
    _script(f"def main():\n    r.log('train', {{'a': 1}}, 1)\n    {code}\nmain()\n")
    run = load_run(_only(parent))
    assert (run.status, (run._error.strip().splitlines() or [""])[-1]) == (status, error)


@pytest.mark.parametrize(("code", "status", "error"), [("0", "Complete", ""), ("3", "Failed", "exited with code 3")])
def test_exit_that_leaves_a_with_block_decides_the_status(parent: Path, code: str, status: str, error: str) -> None:
    for statement in (f"sys.exit({code})", f"raise SystemExit({code})"):
        _script(f"r.finish()\nwith create_run(name='block') as run: {statement}\n")
    runs = [load_run(str(path)) for path in parent.iterdir() if path.name.startswith("block")]
    assert [(run.status, run._error) for run in runs] == [(status, error)] * 2


def test_exit_with_the_result_of_main_is_seen(parent: Path) -> None:
    code = "import sys\nfrom t9k import em\ndef main():\n    em.create_run()\n    return 4\nsys.exit(main())\n"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 4
    run = load_run(_only(parent))
    assert (run.status, run._error) == ("Failed", "exited with code 4")


def test_exit_that_is_caught_or_of_a_finished_run_changes_nothing(parent: Path) -> None:
    done = _script("try:\n    sys.exit(3)\nexcept SystemExit as error:\n    print(error.code)\n")
    assert (done.returncode, done.stdout) == (0, "3\n")
    assert load_run(_only(parent)).status == "Complete"
    done = _script("r.finish(); sys.exit(3)\n")
    assert done.returncode == 3
    assert {load_run(str(path)).status for path in parent.iterdir()} == {"Complete"}


@pytest.mark.parametrize("option", ["-m", "-c", "file"])
def test_exit_is_seen_however_the_script_is_started(parent: Path, tmp_path: Path, option: str) -> None:
    script = tmp_path / "train_script.py"
    script.write_text(HEAD + "raise SystemExit(7)\n")
    words = {
        "-m": ["-m", "train_script"],
        "-c": ["-c", script.read_text()],
        "file": [str(script)],
    }[option]
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    assert subprocess.run([sys.executable, *words], env=environ, capture_output=True, timeout=60).returncode == 7
    assert load_run(_only(parent))._error == "exited with code 7"


def test_hard_exit_leaves_a_crashed_run(parent: Path) -> None:
    assert _script("r.log('train', {'a': 1}, 1)\nos._exit(0)\n").returncode == 0
    assert load_run(_only(parent)).status == "Crashed"


def test_exit_in_the_midst_of_worker_processes_is_seen(parent: Path) -> None:
    done = _script(
        "import multiprocessing\n"
        "def work(i): sys.exit(9)\n"
        "if __name__ == '__main__':\n"
        "    p = multiprocessing.get_context('fork').Process(target=work, args=(1,)); p.start(); p.join()\n"
        "    print(p.exitcode, r.status, flush=True)\n    raise SystemExit(p.exitcode)\n"
    )
    assert (done.returncode, done.stdout) == (9, "9 Running\n")
    assert load_run(_only(parent))._error == "exited with code 9"


def test_threads_log_on_after_the_main_thread_has_failed(parent: Path) -> None:
    for number, last in enumerate(("1 / 0", "raise SystemExit(3)")):
        done = _script(
            "import threading\n"
            "def work():\n    threading.main_thread().join(); r.log('train', {'a': 1}, 1); print('logged')\n"
            f"threading.Thread(target=work).start()\n{last}\n"
        )
        assert (done.returncode, done.stdout) == ((1, 3)[number], "logged\n"), done.stderr
    runs = [load_run(str(path)) for path in parent.iterdir()]
    assert [(run.status, len(run.metrics["train"])) for run in runs] == [("Failed", 1)] * 2


def test_error_at_a_prompt_leaves_the_run_running(parent: Path) -> None:
    lines = HEAD + "1 / 0\nr.log('train', {'a': 1}, 1)\nprint(r.status)\n"
    done = subprocess.run([sys.executable, "-i"], input=lines, capture_output=True, text=True, timeout=60)
    assert done.stdout == "Running\n"
    assert "ZeroDivisionError" in done.stderr
    assert load_run(_only(parent)).status == "Complete"


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize(
    ("work", "status", "error"),
    [
        ("pass", "Complete", ""),
        ("sys.exit(0)", "Complete", ""),
        ("sys.exit(6)", "Failed", "exited with code 6"),
        ("raise SystemExit('no data')", "Failed", "exited: no data"),
        ("1 / 0", "Failed", "ZeroDivisionError: division by zero"),
    ],
)
def test_end_of_a_worker_process_is_the_end_of_its_run(
    parent: Path, tmp_path: Path, method: str, work: str, status: str, error: str
) -> None:
    script = tmp_path / "workers.py"
    script.write_text(
        "import multiprocessing, sys\nfrom t9k import em\n"
        f"def work():\n    run = em.create_run(); run.log('train', {{'a': 1}}, 1)\n    {work}\n"
        "if __name__ == '__main__':\n"
        "    try:\n        {}['started while an exception is handled']\n"
        "    except KeyError:\n"
        f"        p = multiprocessing.get_context('{method}').Process(target=work); p.start(); p.join()\n"
    )
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, str(script)], env=environ, capture_output=True, timeout=120, check=True)
    run = load_run(_only(parent))
    assert (run.status, (run._error.strip().splitlines() or [""])[-1]) == (status, error)


def test_exit_of_threads_children_and_pickles_is_as_before(parent: Path) -> None:
    done = _script(
        "import copy, pickle, threading, warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)  # from Python 3.12 on: a fork beside our threads\n"
        "thread = threading.Thread(target=sys.exit, args=(3,)); thread.start(); thread.join()\n"
        "pid = os.fork()\nif not pid: sys.exit(5)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "try:\n    sys.exit(6)\nexcept SystemExit as error:\n"
        "    other = copy.copy(pickle.loads(pickle.dumps(error))); error.code = 7\n"
        "    print(type(error) is type(other) is SystemExit, other.code, error.code, repr(error))\n"
        "    del error.code; print(error.code, SystemExit.code.__doc__)\n"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "5\nTrue 6 7 SystemExit(6)\nNone exception code\n"
    assert load_run(_only(parent)).status == "Complete"


@pytest.mark.parametrize("python", ["python3.12", "python3.13", "python3.14"])
def test_other_interpreters_can_be_listened_to(python: str) -> None:
    module = Path(exit_code.__file__)
    code = (
        f"import sys; sys.path.insert(0, {str(module.parent)!r}); import exit_code\n"
        "try: raise SystemExit(1)\nexcept SystemExit as error: error.code\n"  # fills the cache of attributes
        "assert exit_code.listen(lambda code: print('heard', code, flush=True))\nsys.exit(4)\n"
    )
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"{python} is not installed")
    if not done.stdout and "not found" in done.stderr:
        pytest.skip(f"{python} is not installed")
    assert (done.returncode, done.stdout, done.stderr) == (4, "heard 4\n", "")


def test_interpreter_that_keeps_the_class_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = vars(SystemExit)["code"]
    for found in ([], [{"code": 1}], [[]]):
        monkeypatch.setattr(exit_code.gc, "get_referents", lambda view, found=found: found)
        assert not exit_code.listen(print)
    assert vars(SystemExit)["code"] is before

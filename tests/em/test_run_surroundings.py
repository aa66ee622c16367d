"""A run among many others, with a clock that jumps, directories that vanish, and files that somebody has forged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from t9k.em import hparams_file, run_files
from t9k.em import metrics as em_metrics
from t9k.em import run as em_run
from t9k.em.errors import EmError, InvalidInputError, StoreError
from t9k.em.run import Run, create_run, load_run

PROCESSES = 1000


@pytest.fixture(autouse=True)
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EM_RUN_PARENT_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("EM_SYSTEM_METRICS", "0")
    return tmp_path / "runs"


def _script(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    head = "import os, sys\nfrom t9k.em.run import create_run, load_run\n"
    command = [sys.executable, "-c", head + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_thousand_processes_in_one_second_make_thousand_runs(parent: Path) -> None:
    done = _script(
        "import time\ntime.strftime = lambda *a: '260101_120000'\nchildren = set()\n"
        "create_run(name='first')\n"  # imports once for all
        "for _ in range(int(sys.argv[1])):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        try:\n            create_run(name='same', hparams={'pid': os.getpid()}); os._exit(0)\n"
        "        finally: os._exit(1)\n"
        "    children.add(pid)\n"
        "assert {os.waitpid(pid, 0)[1] for pid in children} == {0}\nprint(*children)\n",
        str(PROCESSES),
    )
    assert done.returncode == 0, done.stderr
    names = [name for name in os.listdir(parent) if name.startswith("same")]
    assert len(names) == PROCESSES
    assert all(re.fullmatch(r"same_260101_120000_[a-z0-9]{6}", name) for name in names)
    pids = {(parent / name / "hyperparameters.yaml").read_text() for name in names}
    assert pids == {f"pid: {pid}\n" for pid in done.stdout.split()}


def test_letters_that_are_taken_are_drawn_again(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    letters = iter("aaaaaa" * 3 + "bbbbbb")
    monkeypatch.setattr(run_files.time, "strftime", lambda *a: "260101_120000")
    monkeypatch.setattr(run_files._RANDOM, "choice", lambda chars: next(letters))
    assert [run_files.make_run_dir(str(parent), "n")[1][-6:] for _ in range(2)] == ["aaaaaa", "bbbbbb"]
    monkeypatch.setattr(run_files._RANDOM, "choice", lambda chars: "a")
    with pytest.raises(StoreError, match="free run directory name"):
        run_files.make_run_dir(str(parent), "n")


def test_random_letters_are_not_those_of_a_seed(parent: Path) -> None:
    code = "import random\nrandom.seed(1)\nprint(create_run().alternative_name)\n"
    assert _script(code).stdout[-7:] != _script(code).stdout[-7:]


@pytest.mark.usefixtures("strace")
def test_log_call_is_one_system_call(tmp_path: Path) -> None:
    code = (
        "r = create_run()\nr.log('train', {'loss': 1.0}, 0)\n"
        "os.write(2, b'BEGIN')\n"
        "for i in range(1000): r.log('train', {'loss': 0.5, 'acc': 1, 'lr': 1e-5, 'a': 1.5, 'b': 2}, i, epoch=1)\n"
        "os.write(2, b'END')\n"
    )
    head = "import os\nfrom t9k.em.run import create_run\n"
    trace = tmp_path / "trace"
    # Without -f: the run's own threads are not the script's.
    command = ["strace", "-o", str(trace), sys.executable, "-c", head + code]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    calls = trace.read_text().partition("BEGIN")[2].partition("END")[0].splitlines()[1:-1]
    # Another thread of the run is handed the interpreter by futex, and has children that end.
    calls = [call for call in calls if not call.startswith(("futex(", "--- SIGCHLD"))]
    assert len(calls) == 1000
    assert all(call.startswith("write(") and '\\"metrics\\"' in call for call in calls)


def test_two_processes_continue_one_crashed_run(parent: Path) -> None:
    made = _script(
        "import signal\nr = create_run()\nprint(r.local, flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = made.stdout.strip()
    code = (
        "import sys, time\nfrom t9k.em.run import load_run\nr = load_run(sys.argv[1])\nassert r.status == 'Crashed'\n"
        "print('loaded', flush=True)\nsys.stdin.readline()\n"
        "for i in range(2000): r.log('train', {'i': i, 'who': int(sys.argv[2])}, i)\nr.finish()\n"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code, path, str(who)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for who in range(2)
    ]
    for other in others:
        assert other.stdout is not None
        assert other.stdout.readline() == "loaded\n"
    for other in others:
        assert other.stdin is not None
        other.stdin.write("go\n")
        other.stdin.flush()
    for other in others:
        other.communicate(timeout=60)
        assert other.returncode == 0
    loaded = load_run(path)
    assert loaded.status == "Complete"
    for who in range(2):
        points = [point for point in loaded.metrics["train"] if point["metrics"]["who"] == who]
        assert [point["metrics"]["i"] for point in points] == list(range(2000))


def test_hyperparameters_of_two_living_processes_merge() -> None:
    run = create_run(hparams={"a": 1, "b": 1, "gone": 1, "nested": {"x": 1}})
    code = (
        "r = load_run(sys.argv[1])\n"
        "def step():\n    print('done', flush=True); sys.stdin.readline()\n"
        "r.params.update({'b': 2, 'guest': 1e-05})\ndel r.params['gone']\nstep()\n"
        "r.params.late = True\nprint(sorted(r.params.to_dict().items()))\nr.finish()\n"
    )
    head = "import os, sys\nfrom t9k.em.run import create_run, load_run\n"
    guest = subprocess.Popen(
        [sys.executable, "-c", head + code, run.local], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert guest.stdout is not None
    assert guest.stdout.readline() == "done\n"
    run.params.a = 2  # this process does not know yet what the guest has changed, and keeps it
    expected = {"a": 2, "b": 2, "nested": {"x": 1}, "guest": 1e-05}
    assert run.params.to_dict() == expected
    assert load_run(run.local).params.to_dict() == expected
    run.params.nested = {"x": 2}
    out, _ = guest.communicate("go\n", timeout=60)
    expected |= {"nested": {"x": 2}, "late": True}
    assert out == f"{sorted(expected.items())}\n"
    assert load_run(run.local).params.to_dict() == expected
    run.finish()


def test_hyperparameter_that_two_processes_set_is_the_later_ones() -> None:
    run = create_run(hparams={"lr": 1})
    guest = load_run(run.local)
    guest.params.lr = 2
    run.params.lr = 3
    assert load_run(run.local).params.to_dict() == {"lr": 3}
    Path(run.local, "hyperparameters.yaml").write_text("{{{")  # spoilt by somebody: it is replaced
    run.params.x = 1
    assert load_run(run.local).params.to_dict() == {"lr": 3, "x": 1}


def test_heartbeat_that_writes_what_is_owed_does_not_wait_for_a_change_of_hyperparameters() -> None:
    import threading

    run = create_run(hparams={"a": 1})
    assert run._recorder is not None
    heartbeat = threading.Thread(target=run._recorder.save, args=("hyperparameters.yaml",), daemon=True)
    with run.params._lock:  # a change that will want to write next
        heartbeat.start()
        heartbeat.join(30)
        assert not heartbeat.is_alive()


def test_change_by_another_process_at_the_last_moment_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    run = create_run(hparams={"a": 1})
    guest = load_run(run.local)
    guest.params.b = 1
    real, late = hparams_file.write_yaml, ["late2", "late1"]

    def write(path: str, value: object, is_wanted: object) -> object:
        if late:
            with monkeypatch.context() as patch:
                patch.setattr(hparams_file, "write_yaml", real)
                run.params[late.pop()] = 1
        return real(path, value, is_wanted)  # type: ignore[arg-type]

    monkeypatch.setattr(hparams_file, "write_yaml", write)
    guest.params.c = 1
    assert load_run(run.local).params.to_dict() == dict.fromkeys(["a", "b", "late1", "late2", "c"], 1)


@pytest.mark.parametrize("status", ["Complete", "Failed"])
def test_ended_run_is_continued_by_its_first_change(status: str) -> None:
    run = create_run(hparams={"a": 1})
    run.log("train", {"x": 1}, 1)
    run._finish(status)
    loaded = load_run(run.local)
    assert loaded.status == status
    loaded.params.update({"b": 2})
    assert load_run(run.local).status == "Running"
    loaded.log("train", {"x": 2}, 2)
    loaded.finish()
    again = load_run(run.local)
    assert (again.status, again.params.to_dict(), len(again.metrics["train"])) == ("Complete", {"a": 1, "b": 2}, 2)
    with pytest.raises(InvalidInputError, match="load_run continues it"):
        loaded.log("train", {"x": 3}, 3)


def test_reading_a_loaded_run_changes_nothing() -> None:
    run = create_run()
    run.log("train", {"x": 1}, 1)
    run.finish()
    before = {path: path.stat().st_mtime_ns for path in Path(run.local).rglob("*")}
    loaded = load_run(run.local)
    assert (loaded.to_dict(), len(loaded.metrics["train"])) == (run.to_dict(), 1)
    loaded.finish()
    assert {path: path.stat().st_mtime_ns for path in Path(run.local).rglob("*")} == before


def test_clock_that_jumps_back_is_kept_and_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run = create_run()
    run.log("train", {"x": 1}, 1)
    earlier = "2001-01-01T00:00:00.000Z"
    with monkeypatch.context() as patch:
        patch.setattr(em_run, "timestamp", lambda: earlier)
        patch.setattr(em_run, "time_ns", lambda: 978307200 * 10**9)
        patch.setattr(time, "time", lambda: 978307200.0)
        run.log("train", {"x": 2}, 2)
        assert load_run(run.local).status == "Running"
        second = create_run()
        run.finish()
    second.finish()
    loaded = load_run(run.local)
    assert (loaded.status, loaded.end_timestamp) == ("Complete", earlier)
    stamps = [point["at"]["timestamp"] for point in loaded.metrics["train"]]
    assert [point["at"]["step"] for point in loaded.metrics["train"]] == [1, 2]
    assert stamps[0] > stamps[1] == earlier
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", em_metrics.timestamp())


def test_directory_that_vanishes_is_one_warning() -> None:
    run = create_run()
    run.log("train", {"x": 1}, 1)
    shutil.rmtree(run.local)
    with pytest.warns(RuntimeWarning, match="training goes on") as caught:  # noqa: PT031 - one warning for all
        for step in range(3):
            run.log("val", {"x": 1}, step)
            run.params.x = step
        run.finish()
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert run.status == "Complete"


@pytest.fixture
def read_only(parent: Path) -> Path:
    """A file system that a test makes read-only."""
    parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(parent)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    yield parent  # type: ignore[misc]
    subprocess.run(["umount", "-l", str(parent)], check=True)


def test_directory_that_becomes_read_only_is_one_warning(read_only: Path) -> None:
    run = create_run()
    subprocess.run(["mount", "-o", "remount,ro", str(read_only)], check=True)
    with pytest.warns(RuntimeWarning, match="Read-only file system") as caught:  # noqa: PT031 - one warning for all
        for step in range(3):
            run.log("train", {"x": 1}, step)
            run.params.x = step
        run.finish()
    assert len(caught) == 1
    loaded = load_run(run.local)  # still Running for its live process
    assert loaded.metrics == {}


def test_loaded_run_of_a_read_only_directory_can_be_logged_to(read_only: Path) -> None:
    create_run().finish()
    subprocess.run(["mount", "-o", "remount,ro", str(read_only)], check=True)
    (path,) = read_only.iterdir()
    run = load_run(str(path))
    with pytest.warns(RuntimeWarning, match="cannot write to run") as caught:  # noqa: PT031 - one warning for all
        run.log("train", {"x": 1}, 1)
        run.mark_output(Run({"name": "like_an_artifact"}))
        run.finish()
    assert len(caught) == 1


def test_file_size_limit_is_one_warning_and_counted() -> None:
    code = (
        "import resource\nr = create_run()\nprint(r.local, flush=True)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10000, resource.RLIM_INFINITY))\n"
        "for i in range(1000): r.log('train', {'loss': 0.5}, i)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)\n"
        "r.log('train', {'loss': 0.5}, 1000)\nr.finish()\n"
    )
    done = _script(code)
    assert done.returncode == 0
    assert done.stderr.count("RuntimeWarning") == 1
    run = load_run(done.stdout.strip())
    kept = [point["at"]["step"] for point in run.metrics["train"]]
    assert kept[-1] == 1000
    assert len(kept) + run._metadata()["lost_log_lines"] == 1001


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        ("metadata.yaml", b"- 1\n", "a mapping of keys"),
        ("metadata.yaml", b"name: [a]\n", "name of a run must be text"),
        ("metadata.yaml", b"name: ../../etc\n", "cannot name a directory"),
        ("metadata.yaml", b"name: a\nlabels: 5\n", "labels of a run must be a list"),
        ("metadata.yaml", b"name: a\nlabels: text\n", "labels of a run must be a list"),
        ("metadata.yaml", b"name: a\nprocess: [1]\n", "process of a run must be a mapping"),
        ("metadata.yaml", b"name: a\nassociations: {inputs: {a: 1}}\n", "inputs of a run must be a list"),
        ("metadata.yaml", b"name: a\nassociations: [1]\n", "associations of a run must be a mapping"),
        ("metadata.yaml", b"name: a\nstatus: [1]\n", "status of a run must be text"),
        ("metadata.yaml", b"name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("metadata.yaml", b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "alias .a is not supported"),
        ("hyperparameters.yaml", b"a: !!binary aGVsbG8=\n", "cannot be kept in YAML"),
        ("hyperparameters.yaml", b"a: [" + b"[]," * 300_000 + b"]", "more than 200000"),
        ("platform.yaml", b"\0\0\0", "not valid YAML"),
        ("git.yaml", b"{{{", "not valid YAML"),
    ],
)
def test_forged_file_of_a_run_is_refused(file: str, data: bytes, message: str) -> None:
    run = create_run()
    run.finish()
    Path(run.local, file).write_bytes(data)
    with pytest.raises(InvalidInputError, match=message):
        load_run(run.local)


@pytest.mark.parametrize("file", ["metadata.yaml", "hyperparameters.yaml", "metrics/train.yaml"])
def test_gigabyte_in_a_run_is_refused_with_little_memory(file: str) -> None:
    run = create_run()
    run.log("train", {"x": 1}, 1)
    run.finish()
    os.truncate(Path(run.local, file), 1 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(EmError, match=r"larger|a line of more than"):
            load_run(run.local).metrics["train"]
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_log_from_threads_loses_and_mixes_nothing() -> None:
    import threading

    run = create_run()
    threads = [
        threading.Thread(target=lambda who=who: [run.log("train", {"who": who}, step) for step in range(500)])
        for who in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    points = run.metrics["train"]
    for who in range(8):
        assert [p["at"]["step"] for p in points if p["metrics"]["who"] == who] == list(range(500))


def test_first_log_of_a_loaded_run_from_threads_loses_nothing() -> None:
    for _ in range(20):
        create = create_run()
        create.finish()
        run = load_run(create.local)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda step, run=run: run.log("train", {"x": 1}, step), range(16)))
        assert sorted(point["at"]["step"] for point in run.metrics["train"]) == list(range(16))
        run.finish()


def test_steps_may_repeat_and_go_back() -> None:
    run = create_run()
    for step in (5, 5, 1, -1):
        run.log("train", {"x": step}, step)
    assert [point["at"]["step"] for point in run.metrics["train"]] == [5, 5, 1, -1]


def test_worker_pool_of_a_run_neither_finishes_nor_writes_it(parent: Path) -> None:
    done = _script(
        "import multiprocessing\nr = create_run(hparams={'a': 1})\n"
        "def work(i):\n    r.log('train', {'i': i}, i); r.params.a = i; r.finish(); return i\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(work, range(4)))\n"
        "print(r.status)\n"
    )
    assert done.stdout == "[0, 1, 2, 3]\nRunning\n"
    (path,) = parent.iterdir()
    loaded = load_run(str(path))
    assert (loaded.status, loaded.params.to_dict(), dict(loaded.metrics)) == ("Complete", {"a": 1}, {})

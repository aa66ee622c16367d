"""The beginning and every end of a script with `auto_upload`: what is on the server then."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from harness import Serving, run_server
from proxy import Faults, proxied
from scripts import Start, eventually, points, record, state_of
from t9k import em
from t9k.em.client.session import Session
from t9k.em.sync import helper
from t9k.em.sync.lock import is_held

LOGS = """
for step in range(500):
    run.log("train", {"x": step}, step=step)
"""


def assert_is_there(server: Serving, directory: str, state: str) -> None:
    """The server has all of the run, and says this of it."""
    known = state_of(directory)
    assert known.is_done
    assert record(server, known.path)["state"] == state
    assert points(server, known.node_id) == list(range(500))


def test_run_is_made_there_before_any_pause(
    server: Serving, home: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process beside the script waits for no batch to fill, and not for its next look at the files."""
    directory = start(server, LOGS, EM_MODE="offline").local
    pauses: list[list[str]] = []

    class Pauses:
        def is_set(self) -> bool:
            return False

        def wait(self, _: float) -> None:
            pauses.append(list(proxy.requests))

    monkeypatch.setattr(helper, "_hurry", Pauses())
    with proxied(server.url) as proxy:
        session = Session.open(proxy.url, server.api_key)
        session.user = server.user
        helper.follow(session, directory)
        assert proxy.requests[0] == "POST /api/v1/runs"
        assert all("POST /api/v1/runs" in before for before in pauses)
    assert state_of(directory).is_done


def test_first_request_after_the_login_makes_the_run(server: Serving, start: Start) -> None:
    with proxied(server.url) as proxy:
        script = start(replace(server, url=proxy.url), "sys.stdin.readline()", wait=False)
        state = eventually(lambda: (found := state_of(script.local)).node_id and found)
        assert proxy.requests[:2] == ["GET /api/v1/session", "POST /api/v1/runs"]
        assert record(server, state.path)["state"] == "Running"
        script.kill()


@pytest.mark.parametrize(
    ("end", "code", "state"),
    [
        ("", 0, "Complete"),
        ("sys.exit(3)", 3, "Failed"),
        ("raise ValueError('diverged')", 1, "Failed"),
        ("os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(600)", -signal.SIGINT, "Failed"),
        ("import threading; threading.Thread(target=time.sleep, args=(0.5,)).start()", 0, "Complete"),
    ],
    ids=["end", "exit", "exception", "ctrl-c", "thread"],
)
def test_script_that_ends_without_finish_has_sent_all(
    server: Serving, start: Start, end: str, code: int, state: str
) -> None:
    script = start(server, LOGS + end)
    assert script.process.returncode == code, script.err.read_text()
    assert_is_there(server, script.local, state)


def test_process_that_exits_at_once_is_told_by_the_one_beside_it(server: Serving, start: Start) -> None:
    has_started = "while not os.path.exists(run.local + '/.sync.lock'): time.sleep(0.01)\n"
    script = start(server, LOGS + has_started + "os._exit(0)")
    directory = script.local
    eventually(lambda: state_of(directory).is_done)
    assert_is_there(server, directory, "Crashed")


def test_scheduler_that_stops_all_processes_of_a_job_gets_all_within_its_grace_time(
    server: Serving, start: Start
) -> None:
    script = start(server, LOGS + "sys.stdin.readline()", wait=False)
    directory = script.local
    holder = eventually(lambda: json.loads(Path(directory, ".sync.lock").read_text()))["pid"]
    for process in (holder, script.process.pid):
        os.kill(process, signal.SIGTERM)
    script.process.wait()
    assert_is_there(server, directory, "Failed")  # when the script has ended, before any SIGKILL


def test_scheduler_is_not_held_up_by_a_server_that_is_away(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "gone"
    with run_server(data) as server:
        script = start(server, LOGS + "sys.stdin.readline()", wait=False, EM_SYNC_FINISH_S="1")
        directory = script.local
        holder = eventually(lambda: json.loads(Path(directory, ".sync.lock").read_text()))["pid"]
        eventually(lambda: state_of(directory).node_id)
    for process in (holder, script.process.pid):
        os.kill(process, signal.SIGTERM)
    assert script.process.wait() == -signal.SIGTERM
    assert "`em sync`" in script.err.read_text() or "in the background" in script.err.read_text()
    os.kill(holder, signal.SIGKILL)  # the grace time is over
    port = server.url.rpartition(":")[2]
    eventually(lambda: not is_held(directory))
    with run_server(data, None, "--port", port) as again:
        again.api_key = server.api_key
        monkeypatch.delenv("EM_MODE", raising=False)
        em.login(again.url, again.api_key)
        second = start(again, "run.finish()")
        assert second.process.returncode == 0, second.err.read_text()
        eventually(lambda: state_of(directory).is_done)
        assert_is_there(again, directory, "Failed")


def test_server_that_is_away_when_a_run_is_made_gets_it_later(tmp_path: Path, start: Start) -> None:
    data = tmp_path / "away"
    with run_server(data) as gone:
        key, port = gone.api_key, gone.url.rpartition(":")[2]
    config = f"current-context: c\ncontexts: [{{name: c, server: {gone.url}, prefixes: {{aistore: ''}}, "
    Path(os.environ["T9K_CONFIG"]).write_text(config + f"auth: {{apikey: {key}}}}}]\n")
    script = start(gone, LOGS, is_configured=True, EM_SYNC_FINISH_S="0.1")
    assert script.process.returncode == 0, script.err.read_text()
    said = script.err.read_text()
    assert "not uploaded before the server is back" in said
    assert "are not uploaded yet" in said
    assert key not in said
    with run_server(data, None, "--port", port) as server:
        server.api_key = key
        directory = script.local
        eventually(lambda: state_of(directory).is_done)
        assert_is_there(server, directory, "Complete")


def test_finish_shows_how_much_is_sent(server: Serving, start: Start) -> None:
    at_once = "import t9k.em.progress\nt9k.em.progress.SILENT_S = t9k.em.progress.LINE_EVERY_S = 0.0\n"
    with proxied(server.url, Faults(bytes_per_s=10e3)) as slow:
        script = start(replace(server, url=slow.url), LOGS + at_once + "run.finish()")
    assert script.process.returncode == 0, script.err.read_text()
    said = script.err.read_text().splitlines()
    size = r"[\d.]+ (B|KiB)"
    shown = re.compile(rf"upload: {size} of 4\d\.\d KiB of metrics and log of {re.escape(Path(script.local).name)}")
    assert said
    assert all(shown.fullmatch(line) for line in said), said[:3]
    assert_is_there(server, script.local, "Complete")


def test_run_whose_server_is_away_takes_no_more_of_the_disk_than_any_run(
    tmp_path: Path, home: Path, start: Start
) -> None:
    """What waits to be sent is the record itself, and `.sync.json` says where: so the queue needs no limit."""
    with run_server(tmp_path / "away") as gone:
        pass
    config = f"current-context: c\ncontexts: [{{name: c, server: {gone.url}, prefixes: {{aistore: ''}}, "
    Path(os.environ["T9K_CONFIG"]).write_text(config + f"auth: {{apikey: {gone.api_key}}}}}]\n")
    script = start(gone, LOGS.replace("500", "20_000"), is_configured=True, EM_SYNC_FINISH_S="0.1")
    assert script.process.returncode == 0, script.err.read_text()
    assert not state_of(script.local).is_done
    eventually(lambda: is_held(script.local))
    os.kill(json.loads(Path(script.local, ".sync.lock").read_text())["pid"], signal.SIGKILL)
    plain = em.create_run(name="auto", hparams={"lr": 0.1})
    for step in range(20_000):
        plain.log("train", {"x": step}, step=step)
    plain.finish()
    sizes = [{path.name: path.stat().st_size for path in Path(one).rglob("*")} for one in (script.local, plain.local)]
    assert sizes[0].pop("train.yaml") == sizes[1].pop("train.yaml") > 1_000_000
    assert sum(sizes[0].values()) < sum(sizes[1].values()) + 8192


def test_forked_workers_may_have_runs_of_their_own(server: Serving, start: Start) -> None:
    script = start(
        server,
        """
        children = []
        for number in range(3):
            if not (child := os.fork()):
                own = em.create_run(name=f"trial-{number}", auto_upload=True)
                for step in range(500):
                    own.log("train", {"x": step}, step=step)
                own.finish()
                print(own.local, flush=True)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        """
        + LOGS.replace("\n", "\n        "),
    )
    assert script.process.returncode == 0, script.err.read_text()
    directories = script.out.read_text().split()
    assert len(directories) == 4
    for directory in directories:
        assert_is_there(server, directory, "Complete")


def test_child_that_is_forked_at_once_and_lives_on_holds_nothing_up(server: Serving, start: Start) -> None:
    """It has no pipe of the process that is being started beside the script."""
    script = start(server, "if not os.fork():\n    sys.stdin.readline()\n    os._exit(0)\n" + LOGS)
    assert script.process.returncode == 0, script.err.read_text()
    assert_is_there(server, script.local, "Complete")


def test_spawned_worker_may_have_a_run_of_its_own(server: Serving, home: Path, start: Start) -> None:
    (home / "trial.py").write_text(
        f"""
from t9k import em

def train(number):
    em.login({server.url!r}, {server.api_key!r})
    run = em.create_run(name=f"spawned-{{number}}", auto_upload=True)
    for step in range(500):
        run.log("train", {{"x": step}}, step=step)
    run.finish()
    return run.local
"""
    )
    body = """
        import multiprocessing
        sys.path.insert(0, os.getcwd())
        import trial
        with multiprocessing.get_context("spawn").Pool(2) as workers:
            print("\\n".join(workers.map(trial.train, range(2))), flush=True)
        """
    script = start(server, body + LOGS.replace("\n", "\n        "))
    assert script.process.returncode == 0, script.err.read_text()
    directories = script.out.read_text().split()
    assert len(directories) == 3
    for directory in directories:
        assert_is_there(server, directory, "Complete")

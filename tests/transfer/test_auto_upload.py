"""`auto_upload` with real scripts, helper processes and servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from harness import Serving, run_server
from scripts import PATIENCE_S, Start, eventually, points, record, state_of
from t9k import em
from t9k.em.errors import AuthError
from t9k.em.sync.lock import SyncLock, is_held
from t9k.em.sync.send import send
from t9k.em.sync.waiting import unsent_runs


def test_run_is_on_the_server_when_finish_returns(server: Serving, start: Start) -> None:
    script = start(
        server,
        """
        print("a line of output")
        for step in range(1000):
            run.log("train", {"loss": 1 / (step + 1)}, step=step)
        run.log("val", {"accuracy": float("nan")}, step=1)
        run.hparams["late"] = float("inf")
        Path("weights").write_bytes(os.urandom(400_000))
        artifact = em.create_artifact("weights")
        artifact.add_file("weights")
        run.mark_output(artifact)
        run.finish()
        print(run.remote)
        """,
        EM_CAPTURE="1",
    )
    assert script.process.returncode == 0, script.err.read_text()
    directory = script.local
    state = state_of(directory)
    assert state.is_done
    found = record(server, state.path)
    assert found["state"] == "Complete"
    assert found["hparams"] == {"lr": 0.1, "late": "Infinity"}
    assert found["platform"]["python"]
    assert points(server, state.node_id) == list(range(1000))
    assert points(server, state.node_id, "val") == [1]
    assert found["log_bytes"] == Path(directory, "stdout.log").stat().st_size > 0
    assert len(state.artifacts) == 1
    assert "'action': 'upload'" in script.out.read_text()


def test_run_appears_while_it_goes_on(server: Serving, start: Start) -> None:
    script = start(server, "run.log('train', {'x': 1}, step=0)\nsys.stdin.readline()", wait=False)
    directory = script.local
    state = eventually(lambda: (found := state_of(directory)).node_id and found)
    eventually(lambda: points(server, state.node_id) == [0])
    assert record(server, state.path)["state"] == "Running"
    script.kill()


def test_killed_script_loses_nothing_that_log_returned_for(server: Serving, start: Start) -> None:
    script = start(
        server,
        """
        for step in range(5000):
            run.log("train", {"x": step}, step=step)
        from t9k.em.sync.lock import is_held
        while not is_held(run.local):  # 5,000 calls take less time than a process needs to begin
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
    )
    directory = script.local
    state = eventually(lambda: (found := state_of(directory)).is_done and found)
    assert points(server, state.node_id) == list(range(5000))
    assert record(server, state.path)["state"] == "Crashed"


def test_sigterm_marks_failed_and_sends_the_rest(server: Serving, start: Start) -> None:
    script = start(
        server,
        """
        for step in range(100):
            run.log("train", {"x": step}, step=step)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        """,
    )
    directory = script.local
    state = eventually(lambda: (found := state_of(directory)).is_done and found)
    assert points(server, state.node_id) == list(range(100))
    assert record(server, state.path)["state"] == "Failed"


def test_server_that_is_away_is_no_trouble_and_gets_all_later(tmp_path: Path, start: Start) -> None:
    data = tmp_path / "later"
    with run_server(data) as gone:
        pass
    key, port = gone.api_key, gone.url.rpartition(":")[2]
    # A login needs the server; the session outlives it.
    with run_server(data, None, "--port", port) as server:
        server.api_key = key
        body = "Path('go').write_text('')\nwhile Path('go').exists(): time.sleep(0.05)\n"
        body += "for step in range(300): run.log('train', {'x': step}, step=step)\nrun.finish()"
        script = start(server, body, wait=False, EM_SYNC_FINISH_S="0.5")
        directory = script.local
        eventually(lambda: Path("go").exists())
    Path("go").unlink()
    assert script.process.wait(PATIENCE_S) == 0
    assert "are not uploaded yet" in script.err.read_text()
    with run_server(data, None, "--port", port) as server:
        server.api_key = key
        state = eventually(lambda: (found := state_of(directory)).is_done and found)
        assert points(server, state.node_id) == list(range(300))


def test_offline_run_waits_for_em_sync(server: Serving, home: Path, start: Start) -> None:
    script = start(server, "run.log('train', {'x': 1}, step=7)", EM_MODE="offline")
    assert script.process.returncode == 0
    directory = script.local
    assert unsent_runs(".em/runs") == [os.path.relpath(directory)]
    environment = {**os.environ, "T9K_CONFIG": str(home / "config.yaml")}
    config = {"current-context": "c", "contexts": [{"name": "c", "server": server.url, "prefixes": {"aistore": "/"}}]}
    config["contexts"][0]["auth"] = {"apikey": server.api_key}  # type: ignore[index]
    (home / "config.yaml").write_text(json.dumps(config) + "\n")
    for expected in ("1 run, 0 with", "0 runs, 0 with"):
        done = subprocess.run(
            [sys.executable, "-m", "t9k.em", "sync"], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
    assert points(server, state_of(directory).node_id) == [7]


def test_loaded_run_continues_where_it_is(server: Serving, start: Start) -> None:
    first = start(server, "run.log('train', {'x': 1}, step=0)\nrun.finish()")
    directory = first.local
    before = state_of(directory)
    code = f"""
        second = em.load_run({directory!r}, auto_upload=True)
        second.log("train", {{"x": 2}}, step=1)
        second.finish()
        run.finish()
        """
    second = start(server, code)
    assert second.process.returncode == 0, second.err.read_text()
    after = state_of(directory)
    assert after.is_done
    assert after.node_id == before.node_id
    assert points(server, after.node_id) == [0, 1]


def test_forked_workers_neither_send_nor_wait(server: Serving, start: Start) -> None:
    script = start(
        server,
        """
        children = []
        for _ in range(4):
            if not (child := os.fork()):
                run.log("train", {"x": -1}, step=-1)
                sys.exit()
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
        run.log("train", {"x": 1}, step=0)
        run.finish()
        """,
    )
    assert script.process.returncode == 0, script.err.read_text()
    assert points(server, state_of(script.local).node_id) == [0]


def test_spawned_workers_leave_the_run_alone(server: Serving, start: Start) -> None:
    script = start(
        server,
        """
        import multiprocessing
        with multiprocessing.get_context("spawn").Pool(2) as workers:
            assert workers.map(abs, range(-4, 0)) == [4, 3, 2, 1]
        run.log("train", {"x": 1}, step=0)
        run.finish()
        """,
    )
    assert script.process.returncode == 0, script.err.read_text()
    assert points(server, state_of(script.local).node_id) == [0]


def test_artifact_goes_up_when_it_is_marked(server: Serving, start: Start) -> None:
    script = start(
        server,
        """
        Path("weights").write_bytes(os.urandom(400_000))
        artifact = em.create_artifact("early")
        artifact.add_file("weights")
        run.mark_output(artifact)
        sys.stdin.readline()
        """,
        wait=False,
    )
    directory = script.local
    state = eventually(lambda: (found := state_of(directory)).artifacts and found)
    assert record(server, state.path)["state"] == "Running"
    assert next(iter(state.artifacts.values())).path.startswith("/admin/default/early")
    script.kill()


def test_next_run_sends_what_an_earlier_one_has_left(server: Serving, start: Start) -> None:
    first = start(server, "run.log('train', {'x': 1}, step=7)", EM_MODE="offline")
    assert state_of(first.local).node_id == ""
    second = start(server, "run.finish()")
    assert second.process.returncode == 0, second.err.read_text()
    state = eventually(lambda: (found := state_of(first.local)).is_done and found)
    assert points(server, state.node_id) == [7]


def test_killed_helper_is_replaced_by_sync_and_nothing_counts_twice(server: Serving, start: Start) -> None:
    body = """
        for step in range(20_000):
            run.log("train", {"x": step}, step=step)
        sys.stdin.readline()
        """
    script = start(server, body, wait=False)
    directory = script.local
    holder = eventually(lambda: json.loads(Path(directory, ".sync.lock").read_text()))
    eventually(lambda: state_of(directory).metrics["train"].offset > 0)
    os.kill(holder["pid"], signal.SIGKILL)
    script.kill()
    eventually(lambda: not is_held(directory))  # on a busy machine the signal takes its time
    em.login(server.url, server.api_key)
    from t9k.em.client.connection import connected

    assert send(connected(), directory)
    sent = points(server, state_of(directory).node_id)
    assert sent == list(range(len(sent)))
    assert len(sent) == len(em.load_run(directory).metrics["train"])


def test_two_senders_of_one_run_take_turns(server: Serving, start: Start) -> None:
    script = start(server, "run.log('train', {'x': 1}, step=0)", EM_MODE="offline")
    directory = script.local
    em.login(server.url, server.api_key)
    from t9k.em.client.connection import connected
    from t9k.em.errors import ConflictError

    with SyncLock(directory), pytest.raises(ConflictError, match="another process"):
        send(connected(), directory)
    assert send(connected(), directory)


def test_lock_of_a_dead_process_counts_no_more(home: Path) -> None:
    code = "import os, sys; from t9k.em.sync.lock import SyncLock; SyncLock('.').__enter__(); os._exit(1)"
    subprocess.run([sys.executable, "-c", code], check=False)
    assert Path(".sync.lock").exists()
    with SyncLock("."):
        pass
    assert not Path(".sync.lock").exists()


def test_auto_upload_without_login_is_an_error_at_once(home: Path) -> None:
    with pytest.raises(AuthError, match="not logged in"):
        em.create_run(auto_upload=True)
    assert not Path(".em/runs").exists()


def test_log_opens_no_connection(server: Serving, home: Path) -> None:
    """The script writes its file and nothing else, whatever the server does."""
    em.login(server.url, server.api_key)
    run = em.create_run(auto_upload=True)
    try:
        eventually(lambda: state_of(run.local).node_id)
        before = connections()
        for step in range(100):
            run.log("train", {"x": 1}, step=step)
            assert connections() == before
    finally:
        run.finish()
    assert state_of(run.local).is_done


def connections() -> set[str]:
    """Sockets that this process has open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {target for target in found if target.startswith("socket:")}

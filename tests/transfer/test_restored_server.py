"""A server that is restored from an older backup: what it had acknowledged since is sent again, and once."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
from harness import run_server
from t9k import em
from t9k.em.sync import state as states
from trees import contents

PATIENCE_S = 120.0


class Restorable:
    """A server that can be put back to a backup of it, at the same address."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._count = 0
        self._stack = contextlib.ExitStack()
        self.serving = self._stack.enter_context(run_server(directory / "served0"))
        self.key = self.serving.api_key

    def save(self) -> None:
        """Takes the backup."""
        self._aistore(self.serving.data, "backup", str(self._directory / "backup"))

    def put_back(self) -> None:
        """Stops the server, and starts one with what the backup has."""
        self._stack.close()
        self._count += 1
        data = self._directory / f"served{self._count}"
        self._aistore(data, "restore", str(self._directory / "backup"))
        port = self.serving.url.rpartition(":")[2]
        self.serving = self._stack.enter_context(run_server(data, None, "--port", port))

    def close(self) -> None:
        """Stops the server."""
        self._stack.close()

    def get(self, url_path: str, /, **params: str | int) -> Any:
        """An answer of the server."""
        headers = {"Authorization": f"Bearer {self.key}"}
        url = f"{self.serving.url}/api/v1{url_path}"
        return requests.get(url, params=params, headers=headers, timeout=PATIENCE_S)

    def points(self, run: str) -> list[int]:
        """Steps of a run's points, as they lie on the server."""
        record = self.get("/runs", path=f"/admin/default/{run}")
        if record.status_code != 200:
            return []
        answer = self.get(f"/runs/{record.json()['node']['id']}/metrics/train", limit=100_000)
        return list(answer.json()["steps"]) if answer.status_code == 200 else []

    def state(self, run: str) -> Any:
        """The state of a run on the server, and its log."""
        record = self.get("/runs", path=f"/admin/default/{run}").json()
        return record["state"], self.get(f"/runs/{record['node']['id']}/log").text

    @staticmethod
    def _aistore(data: Path, *arguments: str) -> None:
        command = [sys.executable, "-m", "t9k.aistore", "--data", str(data), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def restorable(directory: Path) -> Iterator[Restorable]:
    server = Restorable(directory)
    try:
        yield server
    finally:
        server.close()


def eventually(look: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(requests.RequestException):
            if look():
                return
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


SCRIPT = """
    import sys
    from pathlib import Path
    from t9k import em
    em.login(*sys.argv[1:3])
    run = em.create_run(name=sys.argv[3], auto_upload=True)
    step = 0
    for turn, line in enumerate(sys.stdin):
        for _ in range(int(line)):
            run.log("train", {"loss": 1 / (step + 1)}, step)
            step += 1
        with open(Path(run.local, "stdout.log"), "a") as log:
            log.write(f"turn {turn}\\n")
        made = em.create_artifact(f"made{turn}")
        Path(f"made{turn}.txt").write_text(f"made {turn}")
        made.add_file(f"made{turn}.txt")
        run.mark_output(made)
    run.finish()
    """


@contextlib.contextmanager
def training(server: Restorable, name: str) -> Iterator[subprocess.Popen[str]]:
    """A script that logs as many points as each line on its standard input says."""
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), server.serving.url, server.key, name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


def log(process: subprocess.Popen[str], points: int) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{points}\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE_S) == 0


def test_run_that_goes_on_sends_again_what_the_restored_server_lacks(home: Path, tmp_path: Path) -> None:
    with restorable(tmp_path) as server, training(server, "going") as script:
        log(script, 70)
        eventually(lambda: server.points("going") == list(range(70)))
        server.save()
        for points in (40, 50):
            log(script, points)
        eventually(lambda: server.points("going") == list(range(160)))
        eventually(lambda: server.get("/nodes", path="/admin/default/made2").status_code == 200)
        server.put_back()
        assert server.points("going") == list(range(70))
        log(script, 30)
        end(script)
        assert server.points("going") == list(range(190))
        assert server.state("going") == ("Complete", "turn 0\nturn 1\nturn 2\nturn 3\n")
        em.login(server.serving.url, server.key)
        os.chdir(tmp_path)
        for turn in range(4):
            loaded = em.load_artifact(f"/admin/default/made{turn}")
            assert contents(loaded.local) == {f"made{turn}.txt": (f"made {turn}".encode(), False)}


def test_runs_that_were_whole_are_sent_again_by_em_sync_and_only_once(home: Path, tmp_path: Path) -> None:
    def finished(name: str) -> None:
        with training(server, name) as script:
            for points in (20, 30):
                log(script, points)
            end(script)

    def em_sync() -> str:
        environment = os.environ | {"EM_API_KEY": server.key}
        for verb in (["login", "--host", server.serving.url], ["sync"]):
            command = [sys.executable, "-m", "t9k.em", *verb]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.splitlines()[-1]

    with restorable(tmp_path) as server:
        finished("before")
        server.save()
        finished("after")
        assert server.points("after") == list(range(50))
        assert em_sync().startswith("0 runs")
        server.put_back()
        assert server.points("after") == []
        assert em_sync().startswith("2 runs, 0 with")
        for name in ("before", "after"):
            assert server.points(name) == list(range(50))
            assert server.state(name) == ("Complete", "turn 0\nturn 1\n")
        assert em_sync().startswith("0 runs")
        for run_dir in (home / ".em" / "runs").iterdir():
            state = states.load(str(run_dir))
            assert state is not None
            assert state.is_done

"""Training scripts with `auto_upload` in processes of their own, and what a server has of their runs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from harness import Serving
from t9k.em.sync import state as states

POLL_S = 0.05
PATIENCE_S = 60.0


@dataclass
class Script:
    """A training script in a process of its own; `run` is its run, with auto_upload."""

    process: subprocess.Popen[bytes]
    out: Path
    err: Path

    @property
    def local(self) -> str:
        """The directory of its run."""
        return str(eventually(lambda: self.out.read_text().partition("\n")[0]))

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self.process.kill()
        self.process.wait()


Start = Callable[..., Script]
"""From a server, and what follows the making of `run`, to the script."""


@contextmanager
def starting(directory: Path) -> Iterator[Start]:
    """Starts scripts, whose output goes into a directory; what still runs at the end is killed."""
    started: list[Script] = []

    def begin(
        server: Serving, body: str, *, wait: bool = True, is_configured: bool = False, **environment: str
    ) -> Script:
        """With `is_configured` the login is left to the configuration file."""
        head = f"""
            import os, signal, sys, time
            from pathlib import Path
            from t9k import em
            if os.environ.get("EM_MODE") != "offline" and not {is_configured}:
                em.login({server.url!r}, {server.api_key!r})
            run = em.create_run(name="auto", hparams={{"lr": 0.1}}, auto_upload=True)
            print(run.local, flush=True)
            """
        code = textwrap.dedent(head) + textwrap.dedent(body)
        out, err = (directory / f"{name}-{len(started)}" for name in ("out", "err"))
        with open(out, "wb") as output, open(err, "wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=errors,
                env={**os.environ, **environment},
            )
        script = Script(process, out, err)
        started.append(script)
        if wait:
            process.wait(PATIENCE_S * 2)
        return script

    try:
        yield begin
    finally:
        for script in started:
            script.kill()
            assert script.process.stdin is not None
            script.process.stdin.close()


def eventually(look: Callable[[], Any]) -> Any:
    """What `look` answers once it is true."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if found := look():
                return found
        except (requests.RequestException, FileNotFoundError, KeyError):
            pass
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen")
        time.sleep(POLL_S)


def record(server: Serving, path: str) -> dict[str, Any]:
    answer = requests.get(
        f"{server.url}/api/v1/runs",
        params={"path": path},
        headers={"Authorization": f"Bearer {server.api_key}"},
        timeout=10,
    )
    found: dict[str, Any] = answer.json() if answer.status_code == 200 else {}
    return found


def points(server: Serving, node_id: str, kind: str = "train") -> list[int]:
    """Steps of all points of a type."""
    answer = requests.get(
        f"{server.url}/api/v1/runs/{node_id}/metrics/{kind}",
        params={"limit": 100_000},
        headers={"Authorization": f"Bearer {server.api_key}"},
        timeout=10,
    )
    return list(answer.json()["steps"]) if answer.status_code == 200 else []


def state_of(directory: str) -> states.SyncState:
    found = states.load(directory)
    assert found is not None
    return found

"""`auto_upload` from a real notebook kernel that is interrupted, restarted and killed, to a real server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness import Serving
from notebooks import Notebook, notebook_in
from scripts import eventually, points, record, state_of

pytest.importorskip("jupyter_client.manager", reason="jupyter_client is not installed")
pytest.importorskip("ipykernel")
pytestmark = pytest.mark.filterwarnings("default")  # Jupyter's own warnings are not ours


@pytest.fixture
def notebook(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    with notebook_in(tmp_path, monkeypatch) as notebook:
        yield notebook


def login(server: Serving) -> str:
    """What the first cell of every notebook says."""
    return f"from t9k import em\nem.login({server.url!r}, {server.api_key!r})\n"


def begin(notebook: Notebook, server: Serving) -> str:
    """Logs in and creates a run in a cell, and returns its directory."""
    assert "error" not in notebook.run(login(server) + "run = em.create_run(name='cell', auto_upload=True)")
    return notebook.run("run.local")["text"].strip("'")


def go_on(notebook: Notebook, server: Serving, path: str) -> None:
    """Continues the run in a new kernel, and ends it."""
    code = login(server) + f"run = em.load_run({path!r}, auto_upload=True)\n"
    assert "error" not in notebook.run(code + "run.log('train', {'loss': 2}, 1000)\nrun.finish()")


def node_of(path: str) -> str:
    """The run's node, once the server has one."""
    return str(eventually(lambda: state_of(path).node_id))


def test_interrupted_cell_keeps_the_run_going_up(notebook: Notebook, server: Serving) -> None:
    path = begin(notebook, server)
    notebook.client.execute(
        "import time\nfor step in range(10**9):\n    run.log('train', {'loss': step}, step)\n    time.sleep(0.01)\n"
    )
    node_id = node_of(path)
    eventually(lambda: len(points(server, node_id)) > 10)
    notebook.manager.interrupt_kernel()
    assert notebook.client.get_shell_msg(timeout=30)["content"]["ename"] == "KeyboardInterrupt"
    notebook.run("print('after the interrupt'); run.log('val', {'loss': 1}, 1)")
    eventually(lambda: points(server, node_id, "val") == [1])  # the process that sends it goes on
    assert record(server, state_of(path).path)["state"] == "Running"
    assert "error" not in notebook.run("run.finish()")
    found = record(server, state_of(path).path)
    assert (found["state"], state_of(path).is_done) == ("Complete", True)
    steps = points(server, node_id)
    assert steps == list(range(len(steps)))
    assert found["log_bytes"] == Path(path, "stdout.log").stat().st_size > 0


def test_restarted_kernel_sends_the_rest_and_continues_the_same_run(notebook: Notebook, server: Serving) -> None:
    path = begin(notebook, server)
    notebook.run("for step in range(500): run.log('train', {'loss': step}, step)")
    notebook.manager.restart_kernel(now=False)
    notebook.client.wait_for_ready(timeout=60)
    eventually(lambda: state_of(path).is_done)
    node_id, there = state_of(path).node_id, state_of(path).path
    assert record(server, there)["state"] == "Complete"
    go_on(notebook, server, path)
    assert (state_of(path).node_id, record(server, there)["state"]) == (node_id, "Complete")
    assert points(server, node_id) == [*range(500), 1000]


def test_killed_kernel_is_crashed_on_the_server_until_a_new_one_continues_it(
    notebook: Notebook, server: Serving
) -> None:
    path = begin(notebook, server)
    notebook.run("for step in range(500): run.log('train', {'loss': step}, step)")
    os.kill(yaml.safe_load(Path(path, "metadata.yaml").read_text())["process"]["pid"], signal.SIGKILL)
    node_id = node_of(path)
    eventually(lambda: record(server, state_of(path).path)["state"] == "Crashed")
    assert points(server, node_id) == list(range(500))  # nothing that `log` had returned for is missing
    notebook.manager.restart_kernel(now=True)
    notebook.client.wait_for_ready(timeout=60)
    go_on(notebook, server, path)
    assert (state_of(path).node_id, record(server, state_of(path).path)["state"]) == (node_id, "Complete")
    assert points(server, node_id) == [*range(500), 1000]

"""A run in a real notebook kernel that is interrupted, restarted, killed and told to go on."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from notebooks import Notebook, notebook_in
from t9k.em.run import load_run

pytest.importorskip("jupyter_client.manager", reason="jupyter_client is not installed")
pytest.importorskip("ipykernel")
pytestmark = pytest.mark.filterwarnings("default")  # Jupyter's own warnings are not ours
FIRST_CELL = "from t9k import em\nrun = em.create_run(name='cell', hparams={'lr': 1})\nrun.local"


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    monkeypatch.chdir(tmp_path)
    with notebook_in(tmp_path, monkeypatch) as notebook:
        yield notebook


def _local(notebook: Notebook) -> str:
    return notebook.run(FIRST_CELL)["text"].strip("'")


def _wait_for_status(path: str, status: str) -> None:
    deadline = time.monotonic() + 30
    while load_run(path).status != status:
        assert time.monotonic() < deadline, load_run(path).status
        time.sleep(0.1)


def test_interrupted_cell_leaves_the_run_to_the_next_cell(notebook: Notebook) -> None:
    path = _local(notebook)
    message = notebook.client.execute(
        "import time\nfor step in range(10**9):\n    run.log('train', {'loss': step}, step)\n    time.sleep(0.001)\n"
    )
    deadline = time.monotonic() + 30
    while not Path(path, "metrics", "train.yaml").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    notebook.manager.interrupt_kernel()
    reply = notebook.client.get_shell_msg(timeout=30)
    assert reply["parent_header"]["msg_id"] == message
    assert reply["content"]["ename"] == "KeyboardInterrupt"
    assert load_run(path).status == "Running"
    notebook.run("run.log('val', {'loss': 1}, 1); run.finish()")
    loaded = load_run(path)
    steps = [point["at"]["step"] for point in loaded.metrics["train"]]
    assert steps == list(range(len(steps)))
    assert (loaded.status, len(loaded.metrics["val"])) == ("Complete", 1)


def test_error_of_a_cell_does_not_fail_the_run(notebook: Notebook) -> None:
    path = _local(notebook)
    assert notebook.run("1 / 0")["error"] == "ZeroDivisionError"
    assert notebook.run("import sys; sys.exit(3)")["error"] == "SystemExit"
    assert load_run(path).status == "Running"


def test_restarted_kernel_completes_the_run_and_continues_it(notebook: Notebook) -> None:
    path = _local(notebook)
    notebook.run("run.log('train', {'loss': 1}, 1)")
    notebook.manager.restart_kernel(now=False)
    notebook.client.wait_for_ready(timeout=60)
    _wait_for_status(path, "Complete")
    notebook.run(f"from t9k import em\nrun = em.load_run({path!r})\nrun.log('train', {{'loss': 2}}, 2)")
    assert load_run(path).status == "Running"
    notebook.run("run.finish()")
    loaded = load_run(path)
    assert [point["at"]["step"] for point in loaded.metrics["train"]] == [1, 2]
    assert loaded.status == "Complete"


def test_killed_kernel_leaves_a_crashed_run_that_a_new_one_continues(notebook: Notebook) -> None:
    path = _local(notebook)
    notebook.run("run.log('train', {'loss': 1}, 1)")
    pid = yaml.safe_load(Path(path, "metadata.yaml").read_text())["process"]["pid"]
    os.kill(pid, signal.SIGKILL)
    _wait_for_status(path, "Crashed")
    notebook.manager.restart_kernel(now=True)
    notebook.client.wait_for_ready(timeout=60)
    notebook.run(f"from t9k import em\nrun = em.load_run({path!r})\nrun.log('train', {{'loss': 2}}, 2); run.finish()")
    loaded = load_run(path)
    assert [point["at"]["step"] for point in loaded.metrics["train"]] == [1, 2]
    assert loaded.status == "Complete"


def test_output_of_cells_and_their_children_is_in_the_log_once(notebook: Notebook) -> None:
    path = _local(notebook)
    assert notebook.run("print('from a cell')")["out"] == "from a cell\n"
    notebook.run("import sys; print('an error', file=sys.stderr)")
    notebook.run("import os; os.system('echo from a child')")
    notebook.run("other = em.create_run(); print('in both'); run.finish()")
    assert notebook.run("print('in the other')")["out"] == "in the other\n"
    log = Path(path, "stdout.log").read_text().splitlines()
    assert sorted(log) == ["an error", "from a cell", "from a child", "in both"]
    other = notebook.run("other.finish(); other.local")["text"].strip("'")
    assert notebook.run("print('after')")["out"] == "after\n"
    assert Path(other, "stdout.log").read_text().splitlines() == ["in both", "in the other"]


def test_run_artifact_and_params_are_shown_as_tables(notebook: Notebook) -> None:
    _local(notebook)
    for expression in ("run", "run.params", "em.create_artifact(name='logs')"):
        shown = notebook.run(expression)
        assert "<table" in shown["html"], expression
        assert "error" not in shown

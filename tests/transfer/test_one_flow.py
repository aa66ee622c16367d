"""`auto_upload`, `Run.upload` and `em sync` are one mechanism: what one has sent, no other sends again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from proxy import Proxy
from t9k import em
from t9k.em import _engine
from t9k.em.client import artifacts, connection, runs
from t9k.em.errors import ConflictError, NotFoundError, TransferError
from t9k.em.sync import state as states
from t9k.em.sync.push import Push
from t9k.em.sync.send import send
from trees import make_artifact, make_tree

PATIENCE_S = 120.0
SCRIPT = """
import sys
from t9k import em
run = em.create_run(name="trained", auto_upload=True, folder={folder!r}, make_folder=True)
for step in range(1000):
    run.log("train", {{"x": step}}, step=step)
print(run.local, flush=True)
sys.stdin.readline()
for step in range(1000, 1500):
    run.log("train", {{"x": step}}, step=step)
run.upload({folder!r})
print("uploaded", flush=True)
sys.stdin.readline()
run.finish()
"""
BATCH_HEAD_BYTES = 8 + 2 + len("x")


def batch_bytes(points: int) -> int:
    """Of a batch with one metric: steps, epochs, times and values are eight bytes each."""
    return BATCH_HEAD_BYTES + 4 * 8 * points


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


def state_of(directory: str) -> states.SyncState:
    found = states.load(directory)
    assert found is not None
    return found


def is_sent(directory: str) -> bool:
    state = states.load(directory)
    return state is not None and Push(connection.connected(), directory, state).is_complete()


def batches(proxy: Proxy) -> list[tuple[str, int]]:
    """Number and bytes of each batch of metrics that passed."""
    passed = zip(proxy.requests, proxy.body_bytes, strict=True)
    return [(path.split("/metrics/")[1], size) for path, size in passed if re.match("PUT .*/metrics/", path)]


def steps(directory: str) -> list[int]:
    """What the server has of the type train."""
    from t9k.protocol.metric_batch import decode_batch

    state = state_of(directory)
    parts = runs.read_metrics(connection.connected(), state.node_id, "train", "x")
    return [step for part in parts for step in decode_batch(part).steps]


def test_upload_goes_on_where_auto_upload_was_and_sync_sends_only_the_end(
    logged_in: Path, folder: str, proxy: Proxy
) -> None:
    command = [sys.executable, "-c", SCRIPT.format(folder=folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdin is not None
        assert script.stdout is not None
        local = script.stdout.readline().strip()
        eventually(lambda: is_sent(local))
        helper = int(re.search(r'"pid": (\d+)', Path(local, ".sync.lock").read_text())[1])  # type: ignore[index]
        os.kill(helper, signal.SIGKILL)
        before = state_of(local)
        sent = batches(proxy)
        assert sum(size for _, size in sent) == batch_bytes(1000) + (len(sent) - 1) * BATCH_HEAD_BYTES

        proxy.reset()
        script.stdin.write("\n")
        script.stdin.flush()
        assert script.stdout.readline() == "uploaded\n"
        number = before.metrics["train"].sequence
        assert batches(proxy) == [(f"train/{number}?session={before.session}", batch_bytes(500))]
        kinds = [re.sub("/api/v1|/[0-9a-z]{20,}|[?].*", "", path) for path in proxy.requests]
        assert kinds == ["GET /runs", f"PUT /runs/metrics/train/{number}", "POST /runs/heartbeat"]

        script.stdin.write("\n")
        script.stdin.close()
        assert script.wait(PATIENCE_S) == 0
    proxy.reset()
    done = subprocess.run([sys.executable, "-m", "t9k.em", "sync"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.split()[0] for path in proxy.requests] == ["GET", "PATCH"]  # the login, and that it has ended
    assert sum(proxy.body_bytes) < 2000
    assert steps(local) == list(range(1500))
    after = state_of(local)
    assert (after.node_id, after.is_done) == (before.node_id, True)
    assert [line["path"] for line in em.load_run(local).remote] == [before.path]

    proxy.reset()
    em.load_run(local).upload(folder)  # it lives there: no copy of it is made
    assert [path.split()[0] for path in proxy.requests] == ["GET"]


def test_sync_goes_on_where_upload_was(logged_in: Path, folder: str, proxy: Proxy) -> None:
    run = em.create_run(name="trained")
    for step in range(100):
        run.log("train", {"x": step}, step=step)
    run.upload(folder, make_folder=True)
    state = state_of(run.local)
    for step in range(100, 150):
        run.log("train", {"x": step}, step=step)
    run.finish()
    proxy.reset()
    send(connection.connected(), run.local)
    assert batches(proxy) == [(f"train/1?session={state.session}", batch_bytes(50))]
    assert steps(run.local) == list(range(150))
    assert state_of(run.local).is_done


def test_upload_waits_for_the_process_beside_the_script(logged_in: Path, folder: str, proxy: Proxy) -> None:
    run = em.create_run(name="trained", auto_upload=True, folder=folder, make_folder=True)
    for step in range(300):
        run.log("train", {"x": step}, step=step)
    run.upload(folder)
    assert steps(run.local) == list(range(300))
    assert run.remote[-1]["path"] == state_of(run.local).path
    with pytest.raises(ConflictError, match="on its way to"):
        run.upload("elsewhere", make_folder=True)
    run.finish()
    assert sum(size for _, size in batches(proxy)) == batch_bytes(300) + (len(batches(proxy)) - 1) * BATCH_HEAD_BYTES
    run.upload(f"{folder}-copy", make_folder=True)  # whole at home: a copy may go anywhere
    assert steps(run.local) == list(range(300))


def test_upload_that_was_refused_leaves_no_trace(logged_in: Path, folder: str) -> None:
    run = em.create_run(name="trained")
    run.finish()
    with pytest.raises(NotFoundError, match="no folder"):
        run.upload(folder)
    assert states.load(run.local) is None
    run.upload(folder, make_folder=True)
    before = state_of(run.local)
    with pytest.raises(ConflictError, match="is there already"):
        run.upload(folder, conflict_strategy="error")
    run.upload(folder, conflict_strategy="skip")
    assert state_of(run.local) == before


def test_run_that_was_deleted_there_is_uploaded_anew(logged_in: Path, folder: str) -> None:
    run = em.create_run(name="trained")
    run.log("train", {"x": 0}, step=0)
    run.upload(folder, make_folder=True)
    session = connection.connected()
    session.request("DELETE", f"/nodes/{state_of(run.local).node_id}", "x")
    run.log("train", {"x": 1}, step=1)
    run.upload(folder)
    assert steps(run.local) == [0, 1]
    run.finish()


def test_artifact_that_cannot_be_sent_keeps_nothing_else_back(
    logged_in: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree", small=1))
    run = em.create_run(name="trained")
    run.mark_output(artifact)
    run.log("train", {"x": 0}, step=0)
    run.finish()

    def cut(*_: object, **__: object) -> None:
        raise TransferError("cut")

    with monkeypatch.context() as patch:
        patch.setattr("t9k.em.sync.artifacts.upload_artifact", cut)
        with pytest.raises(TransferError, match="cut"):
            run.upload(folder, make_folder=True)
    assert steps(run.local) == [0]
    assert not state_of(run.local).is_done
    run.upload(folder)
    there = runs.get(connection.connected(), state_of(run.local).node_id, "x")
    assert [mark["path"] for mark in there["metadata"]["associations"]["outputs"]] == [f"/admin/{folder}/things"]


def test_artifact_whose_path_another_one_has_taken_is_sent_again(logged_in: Path, folder: str) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree", small=1))
    artifact.upload(folder, make_folder=True)
    session = connection.connected()
    path = f"/{session.user}/{folder}/{artifact.name}"
    session.request("DELETE", f"/nodes/{artifacts.resolve(session, path).node_id}", "x")
    other = em.create_artifact(name=artifact.name)
    Path("other").write_text("other")
    other.add_file("other")
    other.upload(folder)
    assert other.remote[-1]["path"] == path
    run = em.create_run(name="trained")
    run.mark_output(artifact)
    run.finish()
    run.upload(folder)
    there = runs.get(session, state_of(run.local).node_id, "x")
    (mark,) = there["metadata"]["associations"]["outputs"]
    assert mark["path"] != path
    assert artifacts.resolve(session, mark["path"]).manifest_digest == _engine.manifest_digest(artifact.local)


def test_loading_a_live_run_elsewhere_does_not_end_it(
    logged_in: Path, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = em.create_run(name="trained", auto_upload=True, folder=folder, make_folder=True)
    run.log("train", {"x": 0}, step=0)
    run.upload(folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with monkeypatch.context() as patch:
        patch.chdir(elsewhere)
        assert em.load_run(f"{folder}/trained").status == "Crashed"  # nobody there can tell
        done = subprocess.run([sys.executable, "-m", "t9k.em", "sync"], capture_output=True, text=True, check=False)
        assert done.stdout == "0 runs, 0 with something left\n"
    assert runs.get(connection.connected(), state_of(run.local).node_id, "x")["state"] == "Running"
    run.finish()

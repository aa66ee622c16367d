"""Runs to a server and back."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest
from harness import Serving
from proxy import Proxy
from t9k import em
from t9k.em.client import connection, runs
from t9k.em.errors import ConflictError, NotFoundError, TransferError
from t9k.em.sync.state import Sent, SentArtifact, SyncState
from t9k.em.sync.waiting import unsent_text
from t9k.em.transfer import paths
from trees import make_artifact, make_tree


def make_run(name: str = "trained", points: int = 100) -> em.Run:
    run = em.create_run(name=name, hparams={"lr": 0.1, "bad": math.inf, "nested": {"a": [1, None, "x"]}}, labels=["l"])
    for step in range(points):
        run.log("train", {"loss": 1 / (step + 1), "n": step}, step, epoch=step // 10)
        if step % 10 == 0:
            run.log("val", {"acc": math.nan if step == 0 else step}, step)
    Path(run.local, "stdout.log").write_bytes(b"epoch 1\nepoch 2\n")
    run.finish()
    return run


def record(path: str) -> dict[str, object]:
    found = runs.find(connection.connected(), path)
    assert found is not None
    return dict(found)


def test_upload_sends_record_metrics_log_and_artifacts(logged_in: Path, folder: str, server: Serving) -> None:
    data = make_artifact(make_tree(logged_in / "tree"), "data")
    model = make_artifact(make_tree(logged_in / "tree2", seed=2), "model")
    data.upload(folder, make_folder=True)
    run = em.create_run(name="marked")
    run.mark_input(data)
    run.mark_output(model)
    run.finish()
    run.upload(folder)
    there = record(f"{folder}/marked" if folder.startswith("/") else f"/{server.user}/{folder}/marked")
    assert there["state"] == "Complete"
    assert there["metadata"]["name"] == "marked"  # type: ignore[index]
    marks = there["metadata"]["associations"]  # type: ignore[index]
    assert [mark["path"] for mark in marks["inputs"]] == [f"/{server.user}/{folder}/data"]
    assert [mark["path"] for mark in marks["outputs"]] == [f"/{server.user}/{folder}/model"]
    assert [line["path"] for line in run.remote] == [f"/{server.user}/{folder}/marked"]
    assert em.load_run(run.local).remote == run.remote
    assert len(em.load_artifact(data.local).remote) == 1  # was there, and was not sent again
    assert len(em.load_artifact(model.local).remote) == 1


def test_upload_of_numbers_that_json_lacks(logged_in: Path, folder: str, server: Serving) -> None:
    run = make_run()
    run.upload(folder, make_folder=True)
    there = record(f"/{server.user}/{folder}/trained")
    assert there["hparams"] == {"lr": 0.1, "bad": "Infinity", "nested": {"a": [1, None, "x"]}}
    assert there["log_bytes"] == 16
    assert b"".join(runs.read_log(connection.connected(), there["node"]["id"], "x")) == b"epoch 1\nepoch 2\n"  # type: ignore[index]


def test_conflict_strategies(logged_in: Path, folder: str, server: Serving, proxy: Proxy) -> None:
    first, second = make_run(points=3), make_run(points=5)
    with pytest.raises(NotFoundError):
        first.upload(folder)
    first.upload(folder, make_folder=True)
    with pytest.raises(ConflictError, match="is there already"):
        second.upload(folder, conflict_strategy="error")
    proxy.reset()
    second.upload(folder, conflict_strategy="skip")
    assert len(proxy.requests) == 1
    assert second.remote == []
    second.upload(folder)
    assert second.remote[-1]["path"] == f"/{server.user}/{folder}/{second.alternative_name}"
    with pytest.raises(ConflictError):
        second.upload(folder)
    second.upload(folder, conflict_strategy="replace")
    assert second.remote[-1]["path"] == f"/{server.user}/{folder}/trained"
    assert record(f"/{server.user}/{folder}/trained")["metadata"]["alternative_name"] == second.alternative_name  # type: ignore[index]


def test_parent_directory_uploads_all_and_one_failure_stops_no_other(
    logged_in: Path, folder: str, server: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "t9k.em")
    made = [make_run(f"r{number}", points=2) for number in range(4)]
    Path(made[1].local, "hyperparameters.yaml").write_text("[not a mapping")
    (Path(made[0].local).parent / "something else").mkdir()
    with pytest.raises(Exception, match="1 of 4 uploads failed") as caught:
        em.upload(".em/runs", folder, make_folder=True)
    assert "r1" in str(caught.value)
    said = [record.getMessage() for record in caplog.records if record.name == "t9k.em"]
    assert said[-1] == "3 uploaded, 0 skipped, 1 failed"
    assert [made[1].local in line for line in said[:-1]] == [True]
    for name in ("r0", "r2", "r3"):
        assert record(f"/{server.user}/{folder}/{name}")["state"] == "Complete"
    with pytest.raises(NotFoundError):
        em.upload(str(logged_in))


def test_parent_directory_uploads_several_at_once(
    logged_in: Path, folder: str, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make_artifact(make_tree(logged_in / f"t{seed}", seed=seed, small=1), f"a{seed}") for seed in range(3)]
    upload, all_began = paths._upload_one, threading.Barrier(3)

    def meet(*given: Any) -> paths.Done:
        all_began.wait(60)  # broken unless three are under way at once
        return upload(*given)

    monkeypatch.setattr(paths, "_upload_one", meet)
    em.upload(".em/artifacts", folder, make_folder=True)
    for artifact in made:
        assert em.Artifact.at(f"{folder}/{artifact.name}").objects == artifact.objects


def test_interrupted_upload_is_continued_under_the_same_node(
    logged_in: Path, folder: str, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(points=50)

    def cut(*_: object) -> None:
        raise TransferError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "put_log", cut)
        with pytest.raises(TransferError, match="cut"):
            run.upload(folder, make_folder=True)
    assert record(f"/{server.user}/{folder}/trained")["state"] == "Running"
    run.upload(folder, conflict_strategy="error")  # its own half does not count as taken
    assert [line["path"] for line in run.remote] == [f"/{server.user}/{folder}/trained"]
    there = record(f"/{server.user}/{folder}/trained")
    assert there["state"] == "Complete"
    counts = runs.metric_counts(connection.connected(), there["node"]["id"], "x")  # type: ignore[index]
    assert counts == {"train": 50, "val": 5}
    with pytest.raises(ConflictError):  # once more is another upload
        run.upload(folder, conflict_strategy="error")


def test_what_waits_is_told_until_only_the_end_is_left(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/train.yaml").write_bytes(b"x" * 2000)
    (tmp_path / "stdout.log").write_bytes(b"x" * 500)
    (tmp_path / "metadata.yaml").write_text("associations: {inputs: [{local: a}], outputs: [{local: b}, {path: c}]}\n")
    state = SyncState()
    assert unsent_text(str(tmp_path), state) == "2.4 KiB of metrics and log and 2 artifacts"
    state.log_offset, state.artifacts["a"] = 500, SentArtifact("digest", "node")
    assert unsent_text(str(tmp_path), state) == "2.0 KiB of metrics and log and 1 artifact"
    state.metrics["train"] = Sent(offset=2000)
    assert unsent_text(str(tmp_path), state) == "1 artifact"
    state.artifacts["b"] = SentArtifact("digest", "node")
    assert unsent_text(str(tmp_path), state) == "the last words"

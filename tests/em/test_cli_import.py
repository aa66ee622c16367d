"""`em import` of files that mlflow and the tensorboard package wrote."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from t9k import em

EM = [sys.executable, "-m", "t9k.em"]
STORE = Path(__file__).parents[1] / "fixtures" / "mlruns-3.17.tar.xz"
DATABASE = Path(__file__).parents[1] / "fixtures" / "mlflow-database-3.17.tar.xz"


@pytest.fixture(autouse=True)
def utc(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")


@pytest.fixture
def store(directory: Path) -> Path:
    with tarfile.open(STORE) as archive:
        archive.extractall(directory, filter="data")
    return directory / "mlruns"


def imported(tool: str, folder: str, code: int = 0) -> list[dict[str, Any]]:
    done = subprocess.run([*EM, "import", tool, folder, "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if code == 0 else [{"error": done.stderr}]


def loaded(outcomes: list[dict[str, Any]]) -> dict[str, em.Run]:
    assert all(outcome["is_new"] for outcome in outcomes)
    runs = [em.load_run(outcome["path"]) for outcome in outcomes]
    return {run.name: run for run in runs}


@pytest.fixture
def database(directory: Path) -> Path:
    with tarfile.open(DATABASE) as archive:
        archive.extractall(directory, filter="data")
    path = directory / "database" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript((path.parent / "mlflow.sql").read_text())
    return path


@pytest.mark.parametrize("folder", ["mlruns", "database"])
def test_mlflow_runs_have_their_params_metrics_states_and_times(store: Path, database: Path, folder: str) -> None:
    runs = loaded(imported("mlflow", folder))
    assert {name: run.status for name, run in runs.items()} == {
        "svm": "Complete",
        "broken": "Failed",
        "unfinished": "Crashed",
    }
    svm = runs["svm"]
    assert svm.hparams.to_dict() == {"C": 1.0, "kernel": "rbf", "note": "a\nb"}
    assert svm.labels == ["mlflow", "digits", "team=vision"]
    assert svm.description == "first try"
    times = {
        "mlruns": ["2026-11-25T17:43:14.515Z", "2026-11-25T17:43:14.519Z", "2026-11-25T17:43:14.527Z"],
        "database": ["2026-11-25T17:59:09.720Z", "2026-11-25T17:59:09.776Z", "2026-11-25T17:59:09.885Z"],
    }[folder]
    assert [svm.start_timestamp, svm.metrics["train"][0]["at"]["timestamp"], svm.end_timestamp] == times
    assert svm.alternative_name.startswith(f"svm_261125_{times[0][11:19].replace(':', '')}_")
    points = svm.metrics["train"]
    assert [point["metrics"] for point in points[:3]] == [{"loss": 1.0}, {"loss": 0.5}, {"loss": 1 / 3}]
    assert [point["at"]["step"] for point in points[:3]] == [0, 1, 2]
    assert math.isnan(points[3]["metrics"]["nan"])
    assert [point["metrics"]["accuracy"] for point in svm.metrics["val"]] == [0, 1 / 3, 2 / 3]
    (mark,) = svm.associations["outputs"]
    assert Path(em.load_artifact(mark["local"]).local, "model", "model.txt").read_text() == "weights"


def test_import_again_overwrites_nothing(store: Path, directory: Path) -> None:
    first = imported("mlflow", "mlruns")
    runs = directory / ".em" / "runs"
    Path(first[0]["path"], "mine").write_text("kept")
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("*")}
    again = imported("mlflow", "mlruns")
    assert [outcome["is_new"] for outcome in again] == [False] * 3
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("*")} == before
    assert len(os.listdir(directory / ".em" / "artifacts")) == 1


def test_one_run_or_experiment_can_be_imported_alone(store: Path) -> None:
    experiment = next(path for path in store.iterdir() if path.name not in ("0",))
    folder = next(path for path in experiment.iterdir() if path.is_dir())
    assert len(imported("mlflow", str(folder))) == 1
    assert sum(outcome["is_new"] for outcome in imported("mlflow", str(experiment))) == 2


def test_hostile_file_store_reads_no_file_outside(store: Path, directory: Path) -> None:
    (directory / "secret").write_text("secret")
    experiment = next(path for path in store.iterdir() if path.name not in ("0",))
    folder = next(path for path in experiment.iterdir() if (path / "artifacts" / "model").is_dir())
    (folder / "params" / "leak").symlink_to(directory / "secret")
    (folder / "artifacts" / "leak").symlink_to(directory / "secret")
    (folder / "metrics" / "bad\x1b[2J").write_text("soon 1 2\n1795628594519 1 99999999999999999999999999\n")
    meta = folder / "meta.yaml"
    meta.write_text(meta.read_text().replace("run_name: svm", 'run_name: "../../\\e[2Jevil"'))
    outcomes = imported("mlflow", str(folder))
    run = em.load_run(outcomes[0]["path"])
    assert Path(run.local).parent == directory / ".em" / "runs"
    assert run.name == "-..--[2Jevil"
    assert "leak" not in run.hparams
    assert "symbolic links" in outcomes[0]["notes"][0]
    assert not (directory / ".em" / "artifacts").exists()


def test_database_leads_to_no_artifacts_elsewhere(database: Path, directory: Path) -> None:
    (directory / "elsewhere").mkdir()
    (directory / "elsewhere" / "secret").write_text("secret")
    before = database.read_bytes()
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE runs SET artifact_uri = ?", [str(directory / "elsewhere")])
        connection.execute("UPDATE metrics SET value = 1.7976931348623157e308, step = 'x' WHERE step = 1")
    assert database.read_bytes() != before
    outcomes = imported("mlflow", "database")
    svm = loaded(outcomes)["svm"]
    (mark,) = svm.associations["outputs"]
    assert [entry["path"] for entry in em.load_artifact(mark["local"]).objects] == ["model/model.txt"]
    assert outcomes[0]["notes"] == ["2 values were left out"]
    assert len(svm.metrics["val"]) == 2


def test_directory_without_runs_is_an_error(directory: Path) -> None:
    (directory / "empty").mkdir()
    assert "no runs of mlflow" in imported("mlflow", "empty", 1)[0]["error"]
    (directory / "empty" / "mlflow.db").write_bytes(os.urandom(5000))
    assert "cannot be read as a database of mlflow" in imported("mlflow", "empty", 1)[0]["error"]
    pytest.importorskip("tensorboard")
    assert "no TensorBoard event files" in imported("tensorboard", "empty", 1)[0]["error"]


def test_exported_run_comes_back_equal(directory: Path) -> None:
    pytest.importorskip("tensorboard")
    with em.create_run(name="round") as run:
        for step in range(3):
            run.log("train", {"loss": 1 / (step + 1), "lr": 0.5}, step=step)
            run.log("val", {"group/accuracy": 0.25}, step=step)
    subprocess.run([*EM, "export", run.local, "--format", "tensorboard", "-o", "logs"], check=True)
    back = loaded(imported("tensorboard", "logs"))["round"]
    assert back.start_timestamp[:19] == run.start_timestamp[:19]
    assert [point["metrics"] for point in back.metrics["val"]] == [{"group/accuracy": 0.25}] * 3
    assert [point["at"] for point in back.metrics["train"]] == [point["at"] for point in run.metrics["train"]]
    assert [point["metrics"]["loss"] for point in back.metrics["train"]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [outcome["is_new"] for outcome in imported("tensorboard", "logs")] == [False]


def test_keras_directories_are_types_of_one_run(directory: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    writers = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    tensor_util = pytest.importorskip("tensorboard.util.tensor_util")
    for folder, loss in (("train", 0.5), ("validation", 0.75)):
        writer = writers.EventFileWriter(str(directory / "logs" / "lenet" / folder))
        for step in range(2):
            event = event_pb2.Event(wall_time=1_700_000_000 + step, step=step)
            value = event.summary.value.add(tag="epoch_loss", tensor=tensor_util.make_tensor_proto(loss))
            if step == 0:  # as TensorFlow does
                value.metadata.plugin_data.plugin_name = "scalars"
            bomb = event.summary.value.add(tag="bomb", tensor=tensor_util.make_tensor_proto(1.0))
            bomb.metadata.plugin_data.plugin_name = "scalars"
            bomb.tensor.tensor_shape.dim.add(size=1 << 40)
            writer.add_event(event)
        writer.close()
    (outcome,) = imported("tensorboard", "logs")
    assert outcome["notes"] == ["4 values that are not scalars were left out"]
    run = em.load_run(outcome["path"])
    assert (run.name, run.status, run.labels) == ("lenet", "Complete", ["tensorboard"])
    assert {kind: [point["metrics"] for point in points] for kind, points in run.metrics.items()} == {
        "train": [{"epoch_loss": 0.5}] * 2,
        "val": [{"epoch_loss": 0.75}] * 2,
    }


def test_damaged_event_file_gives_what_is_whole(directory: Path) -> None:
    pytest.importorskip("tensorboard")
    with em.create_run(name="damaged") as run:
        for step in range(100):
            run.log("train", {"loss": 1}, step=step)
    subprocess.run([*EM, "export", run.local, "--format", "tensorboard", "-o", "logs"], check=True)
    (file,) = (path for path in (directory / "logs").rglob("*") if path.is_file())
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    (outcome,) = imported("tensorboard", "logs")
    assert 20 < len(em.load_run(outcome["path"]).metrics["train"]) < 100
    file.write_bytes(os.urandom(1000))
    os.utime(file)
    (directory / "logs2").mkdir()
    file.rename(directory / "logs2" / file.name)
    (outcome,) = imported("tensorboard", "logs2")
    assert not em.load_run(outcome["path"]).metrics


def test_record_that_is_no_event_ends_the_file(directory: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    record_writer = pytest.importorskip("tensorboard.summary.writer.record_writer")
    (directory / "logs").mkdir()
    event = event_pb2.Event(wall_time=1_700_000_000, step=1)
    event.summary.value.add(tag="loss", simple_value=0.5)
    hparams = event_pb2.Event(wall_time=1_700_000_001)
    value = hparams.summary.value.add(tag="_hparams_/session_start_info")
    value.metadata.plugin_data.plugin_name = "hparams"
    value.metadata.plugin_data.content = b"\xff\xff garbage"
    with open("logs/events.out.tfevents.1", "wb") as file:
        writer = record_writer.RecordWriter(file)
        for data in (event.SerializeToString(), hparams.SerializeToString(), b"\xff\xff garbage"):
            writer.write(data)
        writer.write(event.SerializeToString())
    (outcome,) = imported("tensorboard", "logs")
    run = em.load_run(outcome["path"])
    assert [point["metrics"] for point in run.metrics["train"]] == [{"loss": 0.5}]
    assert run.start_timestamp == "2023-11-14T22:13:20.000Z"


def test_hyperparameters_of_the_plugin_are_those_of_the_run(directory: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    plugin_data_pb2 = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    metadata = pytest.importorskip("tensorboard.plugins.hparams.metadata")
    writers = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    info = plugin_data_pb2.SessionStartInfo()
    info.hparams["lr"].number_value = 0.5
    info.hparams["optimizer"].string_value = "adam"
    data = plugin_data_pb2.HParamsPluginData(session_start_info=info, version=metadata.PLUGIN_DATA_VERSION)
    event = event_pb2.Event(wall_time=1_700_000_000)
    value = event.summary.value.add(tag="_hparams_/session_start_info")
    value.metadata.plugin_data.plugin_name = "hparams"
    value.metadata.plugin_data.content = data.SerializeToString()
    writer = writers.EventFileWriter(str(directory / "logs"))
    writer.add_event(event)
    writer.close()
    (run,) = loaded(imported("tensorboard", "logs")).values()
    assert run.hparams.to_dict() == {"lr": 0.5, "optimizer": "adam"}

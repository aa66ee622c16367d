"""`em://` in the hands of the packages that people read data with: what they get, and what it costs on the wire."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from harness import Serving
from proxy import Proxy
from safetensors import safe_open
from safetensors.numpy import load, save_file
from t9k import em

ROWS, COLUMNS = 200_000, 10
COLUMN_BYTES = ROWS * 8
FILE_BYTES = ROWS * COLUMNS * 8
TENSOR_SHAPE = (512, 512)
FOLDER = "urls"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(em.__file__).parents[2])}
"""Of another interpreter, which finds this package."""


@pytest.fixture(scope="module")
def table() -> pa.Table:
    random = np.random.default_rng(0)
    return pa.table({f"c{number}": random.standard_normal(ROWS) for number in range(COLUMNS)})


@pytest.fixture
def fs(
    home: Path, proxy: Proxy, server: Serving, table: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> fsspec.AbstractFileSystem:
    """The file system of a client in an empty home; on the server is an artifact with files of many kinds."""
    fsspec.register_implementation("em", "t9k.em.fs.EMFileSystem", clobber=True)
    em.login(proxy.url, server.api_key)
    tree = home / "tree"
    (tree / "parts").mkdir(parents=True)
    pa.parquet.write_table(table, tree / "table.parquet", row_group_size=50_000)
    for part in range(4):
        pa.parquet.write_table(table.slice(part * 50_000, 50_000), tree / "parts" / f"{part}.parquet")
    pd.DataFrame({"step": range(20_000), "loss": np.arange(20_000) / 7}).to_csv(tree / "log.csv", index=False)
    save_file({f"layer.{n}": np.full(TENSOR_SHAPE, n, np.float32) for n in range(12)}, tree / "model.safetensors")
    artifact = em.create_artifact("data")
    for path in sorted(tree.iterdir()):
        (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
    artifact.upload(FOLDER, make_folder=True, conflict_strategy="replace")
    (home.parent / "other").mkdir()
    monkeypatch.chdir(home.parent / "other")
    fsspec.filesystem("em").invalidate_cache()
    proxy.reset()
    return fsspec.filesystem("em")


def test_pandas_reads_a_csv(fs: Any, proxy: Proxy) -> None:
    frame = pd.read_csv(f"em://{FOLDER}/data/log.csv")
    assert list(frame.columns) == ["step", "loss"]
    assert len(frame) == 20_000
    assert frame.loss.iloc[-1] == 19_999 / 7
    assert len(proxy.requests) <= 10


def test_pandas_reads_a_parquet_file(fs: Any, table: pa.Table, proxy: Proxy) -> None:
    frame = pd.read_parquet(f"em://{FOLDER}/data:latest/table.parquet")
    assert frame.equals(table.to_pandas())
    assert proxy.received_bytes < fs.size(f"{FOLDER}/data/table.parquet") * 1.01


def test_column_of_a_parquet_file_costs_little_more_than_the_column(fs: Any, table: pa.Table, proxy: Proxy) -> None:
    frame = pd.read_parquet(f"em://{FOLDER}/data/table.parquet", columns=["c3"])
    assert frame.c3.equals(table.to_pandas().c3)
    # A column lies in four row groups, and each part of it begins and ends within a chunk of 64 kB, 256 at most.
    assert proxy.received_bytes < COLUMN_BYTES + 4 * 2 * (256 << 10)
    assert proxy.received_bytes < FILE_BYTES / 4
    # Two folders and a version, manifest, chunk table, places; then the footer and four parts of the column, each of
    # which lies at up to three places of packs: these are filled in parallel.
    assert len(proxy.requests) <= 6 + 3 * 5, proxy.requests


def test_schema_of_a_parquet_file_costs_one_chunk(fs: Any, proxy: Proxy) -> None:
    with fs.open(f"em://{FOLDER}/data/table.parquet") as file:
        assert pa.parquet.read_schema(file).names == [f"c{number}" for number in range(COLUMNS)]
    assert proxy.received_bytes < 512 << 10
    assert len(proxy.requests) <= 9


def test_pyarrow_dataset_reads_some_rows_of_some_columns(fs: Any, table: pa.Table, proxy: Proxy) -> None:
    dataset = pa.dataset.dataset(f"{FOLDER}/data/parts", filesystem=fs, format="parquet")
    assert dataset.count_rows() == ROWS
    found = dataset.to_table(columns=["c1"], filter=pa.dataset.field("c2") > 3)
    mask = table["c2"].to_numpy() > 3
    assert sorted(found["c1"].to_pylist()) == sorted(table["c1"].to_numpy()[mask].tolist())
    assert proxy.received_bytes < 2 * COLUMN_BYTES + 4 * 4 * (256 << 10)


def test_safetensors_are_loaded_from_bytes_or_mapped_from_a_download(fs: Any, proxy: Proxy) -> None:
    with fs.open(f"em://{FOLDER}/data/model.safetensors") as file:
        tensors = load(file.read())
    assert all((tensors[f"layer.{n}"] == n).all() for n in range(12))
    (path,) = em.Artifact.at(f"{FOLDER}/data").download("weights", glob="*.safetensors")
    with safe_open(path, framework="numpy") as mapped:
        assert (mapped.get_tensor("layer.7") == 7).all()
    local = fsspec.open_local(f"filecache::em://{FOLDER}/data/model.safetensors", filecache={"cache_storage": "cache"})
    with safe_open(local, framework="numpy") as mapped:
        assert (mapped.get_tensor("layer.11") == 11).all()


def test_one_tensor_is_read_without_the_others(fs: Any, proxy: Proxy) -> None:
    with em.Artifact.at(f"{FOLDER}/data").open("model.safetensors") as file:
        proxy.reset()
        (length,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(length))["layer.5"]
        begin, end = entry["data_offsets"]
        file.seek(8 + length + begin)
        tensor = np.frombuffer(file.read(end - begin), "<f4").reshape(entry["shape"])
    assert (tensor == 5).all()
    ranges = [path for path in proxy.requests if "/packs/" in path]
    assert len(ranges) == 2  # the header, the tensor
    assert proxy.received_bytes < (2 << 20) + 20_000


TORCH = """
import io, sys
import torch
from t9k import em
em.login(*sys.argv[1:3])
if sys.argv[3] == "save":
    torch.save({"weight": torch.arange(6.0).reshape(2, 3), "step": 7}, "model.pt")
    artifact = em.create_artifact("torch")
    artifact.add_file("model.pt")
    artifact.upload("urls", make_folder=True, conflict_strategy="replace")
else:
    with em.Artifact.at("urls/torch").open("model.pt") as file:
        state = torch.load(file)
    assert state["step"] == 7
    assert torch.equal(state["weight"], torch.arange(6.0).reshape(2, 3))
"""


def python_with_torch() -> str | None:
    """An interpreter that has PyTorch: this one, or the system's, as `make test-torch` uses it."""
    for python in (sys.executable, "/usr/bin/python3"):
        if (
            os.path.exists(python)
            and not subprocess.run(
                [python, "-c", "import torch, yaml, requests"], check=False, stderr=subprocess.DEVNULL
            ).returncode
        ):
            return python
    return None


def test_torch_loads_a_model_from_an_open_file(home: Path, server: Serving) -> None:
    python = python_with_torch()
    if python is None:
        pytest.skip("PyTorch is not installed")
    for number, verb in enumerate(("save", "load")):
        there = home / str(number)
        there.mkdir()
        command = [python, "-c", TORCH, server.url, server.api_key, verb]
        done = subprocess.run(command, cwd=there, capture_output=True, text=True, check=False, env=ENVIRONMENT)
        assert done.returncode == 0, done.stderr


def test_name_is_asked_again_when_a_file_is_opened_later(
    fs: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"em://{FOLDER}/data/log.csv"
    first = fs.cat_file(url, 0, 10)
    proxy.reset()
    assert fs.info(url)["size"] > 10
    with fs.open(url):
        pass
    assert proxy.requests == [request for request in proxy.requests if "objects" in request]
    Path("log.csv").write_text("another\n")
    artifact = em.create_artifact("data")
    artifact.add_file("log.csv")
    artifact.upload(FOLDER, conflict_strategy="replace")
    assert first.startswith(b"step")
    monkeypatch.setattr("t9k.em.fs.FRESH_S", 0)
    assert fs.cat_file(url) == b"another\n"

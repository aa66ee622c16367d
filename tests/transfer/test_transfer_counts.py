"""What uploads and loads cost, in requests and bytes; `benches/transfer*.py` measures the same at full size."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from harness import Serving
from proxy import Proxy, proxied
from safetensors.numpy import save_file
from t9k import em
from test_round_trip import upload, wait_until_known

BENCHES = Path(__file__).parents[2] / "benches"
HEADS_BYTES = 1000
"""Of the lines and headers of a few requests."""

Weights = dict[str, np.ndarray]


@dataclass
class Client:
    """A client that talks through a proxy which counts."""

    home: Path
    proxy: Proxy
    server: Serving
    folder: str

    def send(self, tensors: Weights, name: str, files: int) -> int:
        """Uploads a checkpoint of so many files; answers the bytes that were sent."""
        source = self.home / name
        source.mkdir()
        names = list(tensors)
        for index in range(files):
            save_file({key: tensors[key] for key in names[index::files]}, source / f"model-{index}.safetensors")
        artifact = em.create_artifact(name)
        artifact.add_dir(str(source))
        self.proxy.reset()
        upload(artifact, self.folder)
        return self.proxy.sent_bytes


@pytest.fixture
def client(home: Path, server: Serving, request: pytest.FixtureRequest) -> Iterator[Client]:
    with proxied(server.url) as proxy:
        em.login(proxy.url, server.api_key)
        yield Client(home, proxy, server, request.node.name)


@pytest.fixture
def weights(request: pytest.FixtureRequest) -> Weights:
    """8 MiB of BF16, which no other test has."""
    numbers = np.random.default_rng(list(request.node.name.encode()))
    return {f"layers.{index}": bf16(numbers.standard_normal((512, 512), np.float32)) for index in range(16)}


def bf16(values: np.ndarray) -> np.ndarray:
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def next_version(tensors: Weights) -> tuple[Weights, int]:
    """A small tensor in front, half of the others changed as an optimizer does; and the bytes of these."""
    changed: Weights = {"_step": np.array([1], np.uint16)}
    for index, (name, tensor) in enumerate(tensors.items()):
        values = (tensor.astype(np.uint32) << 16).view(np.float32)
        noise = np.random.default_rng(index).standard_normal(values.shape, np.float32) * np.float32(1e-3)
        changed[name] = bf16(values + noise) if index % 2 else tensor
    return changed, sum(tensors[name].nbytes for name in list(tensors)[1::2])


def size_of(tensors: Weights) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def stored_bytes(server: Serving) -> int:
    return sum(path.stat().st_size for path in (server.data / "blobs").rglob("*") if path.is_file())


def test_weights_are_sent_and_stored_compressed(client: Client, weights: Weights) -> None:
    before = stored_bytes(client.server)
    sent = client.send(weights, "a", 4)
    assert sent <= 0.70 * size_of(weights)
    assert stored_bytes(client.server) - before <= 0.70 * size_of(weights)


def test_next_version_sends_what_changed(client: Client, weights: Weights) -> None:
    client.send(weights, "a", 4)
    tensors, changed_bytes = next_version(weights)
    assert client.send(tensors, "b", 4) <= 0.73 * changed_bytes


def test_other_files_of_the_same_tensors_send_next_to_nothing(client: Client, weights: Weights) -> None:
    client.send(weights, "a", 4)
    assert client.send(dict(reversed(weights.items())), "c", 7) <= 0.02 * size_of(weights)


def test_load_beside_another_version_receives_what_differs(
    client: Client, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.send(weights, "a", 4)
    tensors, changed_bytes = next_version(weights)
    client.send(tensors, "b", 4)
    there = client.home.parent / "other"
    there.mkdir()
    monkeypatch.chdir(there)
    em.load_artifact(f"{client.folder}/b")
    client.proxy.reset()
    em.load_artifact(f"{client.folder}/a")
    assert client.proxy.received_bytes <= 0.73 * changed_bytes


def test_many_small_files_take_few_requests(client: Client) -> None:
    source = client.home / "small"
    files = 2000
    for index in range(files):
        path = source / str(index // 100) / str(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(index.to_bytes(4, "big") * 2000)
    artifact = em.create_artifact("small")
    artifact.add_dir(str(source))
    client.proxy.reset()
    path = upload(artifact, client.folder)
    assert len(client.proxy.requests) <= 10, client.proxy.requests
    wait_until_known(client.server, path)
    client.proxy.reset()
    upload(artifact, client.folder)
    assert len(client.proxy.requests) <= 3, client.proxy.requests
    assert client.proxy.sent_bytes <= HEADS_BYTES + 40 * files


def bench(name: str, *arguments: str) -> dict[str, list[float]]:
    """The rows of a bench at a small size."""
    command = [sys.executable, str(BENCHES / name), "--rounds", "1", "--json", *arguments]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    rows: dict[str, list[float]] = json.loads(result.stdout)["rows"]
    return rows


def test_clients_at_once_or_one_after_the_other_send_what_they_share_once() -> None:
    rows = bench("transfer_many.py", "--size", "4000000", "--clients", "3", "--apart", "3")
    for start in ("at once", "a second apart"):
        assert rows[f"{start}: bytes sent / unique"][0] <= 1.1
        assert rows[f"{start}: bytes stored / unique"][0] <= 1.1


def test_memory_of_a_client_is_far_below_the_size_of_its_files() -> None:
    rows = bench("transfer_memory.py", "--size", "300000000", "--sparse", "3000000000", "--files", "1000")
    assert len(rows) == 6
    assert all(mib[0] < 160 for mib in rows.values()), rows


def test_benches_of_uploads_run() -> None:
    rows = bench("transfer.py", "--size", "20000000")
    assert rows["load A when B is there: bytes received / changed"][0] <= 0.73
    assert bench("transfer_small.py", "--files", "200")["upload S again: requests"] == [2]
    assert "server gone: taken, % of the loop" in bench("auto_upload.py", "--steps", "200", "--step-ms", "1")

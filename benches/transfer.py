"""Uploads and loads of a checkpoint over HTTP on one machine, beside hf_xet and curl.

`python benches/transfer.py --peers .venv-peers/bin/python [--size 2100000000] [--rounds 3] [--directory DIR]`. A are
BF16 weights in four files; B is A with half of its tensors changed a little, as an optimizer does, and a small tensor
in front. Each round has a new server (its start is not counted) and new stores. Wall times are ratios to hf_xet's
`upload_files` into its own local store, and to `curl` of the artifact's packs from the same server to disk, both in
the same round; requests and bytes are exact. Without hf_xet or curl their rows are left out. A is loaded twice: when
the server has read its packs to hash it, and when the page cache has let go of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from alternate import touch
from safetensors.numpy import save_file
from served import (
    Counted,
    Rows,
    Serving,
    add,
    go_home,
    parser,
    rows_of,
    serving,
    size_of,
    upload,
    wait_until_hashed,
    workplace,
)
from t9k import em
from t9k.em.client.artifacts import resolve
from t9k.em.client.connection import connected
from t9k.em.client.placement import absolute_path

Weights = dict[str, np.ndarray]

TARGETS = {
    "upload A, new: time to hf_xet": 0.35,
    "bytes stored / A": 0.70,
    "upload A again: requests": 3,
    "upload A again: ms": 100,
    "upload A again: bytes sent": 1000 + 40 * 4,
    "upload B after A: bytes sent / changed": 0.73,
    "A in seven files: bytes sent / A": 0.02,
    "load A, empty store: time to curl": 3,
    "load A, packs not cached: time to curl": 3,
    "load A when it is there: ms": 50,
    "load A when B is there: bytes received / changed": 0.73,
}

HF_XET = """
import sys, time
import hf_xet
began = time.perf_counter()
hf_xet.upload_files(sys.argv[2:], "local://" + sys.argv[1], None, None, None, "model")
print(time.perf_counter() - began)
"""


def weights(size_bytes: int) -> Weights:
    """BF16 weights: the upper halves of normal floats."""
    numbers = np.random.default_rng(0)
    rows = 2048 if size_bytes > 1 << 28 else 256
    count = max(8, size_bytes // (2 * rows * rows))
    return {
        f"layers.{index}.weight": (
            numbers.standard_normal((rows, rows), dtype=np.float32).view(np.uint32) >> 16
        ).astype(np.uint16)
        for index in range(count)
    }


def write(directory: Path, tensors: Weights, files: int) -> None:
    """The tensors in so many safetensors files."""
    directory.mkdir()
    names = list(tensors)
    for index in range(files):
        save_file({name: tensors[name] for name in names[index::files]}, directory / f"model-{index}.safetensors")


def next_version(tensors: Weights) -> tuple[Weights, int]:
    """B, and the bytes that differ from A."""
    numbers = np.random.default_rng(1)
    changed: Weights = {"_step": np.array([1], np.uint16)}
    size_bytes = 0
    for index, (name, tensor) in enumerate(tensors.items()):
        changed[name] = tensor
        if index % 2:
            values = (tensor.astype(np.uint32) << 16).view(np.float32)
            values = values + numbers.standard_normal(tensor.shape, dtype=np.float32) * np.float32(1e-3)
            changed[name] = (values.view(np.uint32) >> 16).astype(np.uint16)
            size_bytes += tensor.nbytes
    return changed, size_bytes


def hf_xet(python: str, home: str) -> float | None:
    """Seconds of its upload of A, in a process of its own, without the import; None if it is missing."""
    files = [str(path.absolute()) for path in sorted(Path("A").iterdir())]
    environment = os.environ | {"HOME": os.path.abspath(home), "HF_HOME": os.path.abspath(f"{home}/hf")}
    store = os.path.abspath(f"{home}/store")
    os.makedirs(store)
    child = subprocess.run(
        [python, "-W", "ignore", "-c", HF_XET, store, *files], env=environment, capture_output=True, text=True
    )
    if "ModuleNotFoundError" in child.stderr:
        return None
    if child.returncode:
        sys.exit(f"hf_xet failed:\n{child.stderr}")
    return float(child.stdout)


def pack_names(server: Serving) -> list[str]:
    """Every pack that the server has."""
    with rows_of(server) as database:
        return [digest.hex() for (digest,) in database.execute("SELECT digest FROM packs")]


def curl(server: Serving, path: str, packs: list[str]) -> float | None:
    """Seconds of fetching an artifact's packs whole; None without curl."""
    if shutil.which("curl") is None:
        return None
    node_id = resolve(connected(), absolute_path(path, server.user)).node_id
    os.makedirs("curled")
    lines = [f'header = "Authorization: Bearer {server.api_key}"']
    for pack in packs:
        lines += [f'url = "{server.url}/api/v1/packs/{pack}?artifact={node_id}"', f'output = "curled/{pack}"']
    Path("curl.config").write_text("\n".join(lines))
    began = time.perf_counter()
    subprocess.run(["curl", "--silent", "--fail", "--config", "curl.config"], check=True)
    seconds = time.perf_counter() - began
    shutil.rmtree("curled")
    return seconds


def be_alike(size_bytes: int, not_cached: Sequence[Path] = ()) -> None:
    """Before what is compared: nothing of others waits for the disk, as much memory is mapped; these are not cached."""
    os.sync()
    for path in (path for directory in not_cached for path in directory.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    touch(size_bytes)


def uploads(turn: int, server: Serving, peers: str, changed_bytes: int, counted: Counted, rows: Rows) -> list[str]:
    """All rows of uploads, and hf_xet's upload before them; answers the packs of A."""
    size_bytes = size_of(Path("A"))
    be_alike(size_bytes)
    other = hf_xet(peers, f"xet-{turn}")
    go_home(f"home-{turn}")
    be_alike(size_bytes)
    artifact, add_s = add("A", Path("A"))
    be_alike(size_bytes)
    report, upload_s = upload(artifact, "new")
    if other is not None:
        rows.note("upload A, new: time to hf_xet", upload_s / other)
        rows.note("add and upload A: time to hf_xet", (add_s + upload_s) / other)
        rows.note("hf_xet: bytes stored / A", size_of(Path(f"xet-{turn}/store")) / size_bytes)
    rows.note("upload A, new: MB/s", size_bytes / 1e6 / upload_s)
    rows.note("upload A, new: bytes sent / A", report.packed_bytes / size_bytes)
    packs = pack_names(server)
    wait_until_hashed(server)
    rows.note("bytes stored / A", size_of(server.data) / size_bytes)
    counted.reset()
    _, seconds = upload(artifact, "again")
    rows.note("upload A again: requests", counted.requests)
    rows.note("upload A again: bytes sent", counted.sent_bytes)
    rows.note("upload A again: ms", seconds * 1000)
    report, seconds = upload(add("B", Path("B"))[0], "next")
    rows.note("upload B after A: bytes sent / changed", report.packed_bytes / changed_bytes)
    rows.note("upload B after A: time to upload A", seconds / upload_s)
    report, _ = upload(add("C", Path("resharded"))[0], "resharded")
    rows.note("A in seven files: bytes sent / A", report.packed_bytes / size_bytes)
    return packs


def loads(turn: int, server: Serving, packs: list[str], changed_bytes: int, counted: Counted, rows: Rows) -> None:
    """All rows of loads, and curl beside them."""
    size_bytes = size_of(Path("A"))
    wait_until_hashed(server)
    for what, is_cached in (("empty store", True), ("packs not cached", False)):
        let_go = [] if is_cached else [server.data / "blobs" / "packs"]
        be_alike(size_bytes, let_go)
        other = curl(server, "new/A", packs)
        be_alike(size_bytes, let_go)
        go_home(f"elsewhere-{turn}")
        began = time.perf_counter()
        loaded = em.load_artifact("new/A")
        seconds = time.perf_counter() - began
        if other is not None:
            rows.note(f"load A, {what}: time to curl", seconds / other)
            rows.note(f"load A, {what}: MB/s of curl", size_bytes / 1e6 / other)
        rows.note(f"load A, {what}: MB/s", size_bytes / 1e6 / seconds)
        for path in sorted(Path("A").iterdir()):
            subprocess.run(["cmp", path, f"{loaded.local}/A/{path.name}"], check=True)
        if is_cached:
            shutil.rmtree(f"elsewhere-{turn}")
    began = time.perf_counter()
    em.load_artifact("new/A")
    rows.note("load A when it is there: ms", (time.perf_counter() - began) * 1000)
    go_home(f"beside-{turn}")
    em.load_artifact("next/B")
    counted.reset()
    em.load_artifact("new/A")
    rows.note("load A when B is there: bytes received / changed", counted.received_bytes / changed_bytes)


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    options.add_argument("--size", type=int, default=2_100_000_000, help="bytes of the checkpoint")
    options.add_argument("--peers", type=os.path.abspath, default=sys.executable, help="interpreter that has hf_xet")
    arguments = options.parse_args()
    rows = Rows("transfer", TARGETS)
    with workplace(arguments):
        first = weights(arguments.size)
        second, changed_bytes = next_version(first)
        write(Path("A"), first, 4)
        write(Path("B"), second, 4)
        write(Path("resharded"), dict(reversed(first.items())), 7)
        del first, second
        counted = Counted()
        for turn in range(arguments.rounds):
            with serving(f"data-{turn}") as server:
                packs = uploads(turn, server, arguments.peers, changed_bytes, counted, rows)
                shutil.rmtree(f"xet-{turn}", ignore_errors=True)
                loads(turn, server, packs, changed_bytes, counted, rows)
            for directory in (f"data-{turn}", f"home-{turn}", f"elsewhere-{turn}", f"beside-{turn}"):
                shutil.rmtree(directory)
    rows.show(arguments.json)


if __name__ == "__main__":
    main()

"""Packs of BF16 weights: built, verified as a server does, assembled in another store, and made an artifact."""

from __future__ import annotations

import argparse
import json
import os
import struct
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
from t9k.em import _engine

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "engine"))
from alternate import ROUNDS, alternate, remove, report, touch, workplace
from chunks import pieces_of, table_of

ROW = "<32sQII"


def write_weights(path: Path, size_bytes: int) -> None:
    """A safetensors file of tensors of 16 MiB, normal with a deviation of 0.02."""
    generator, tensor_bytes = numpy.random.default_rng(0), 16 << 20
    count = max(1, size_bytes // tensor_bytes)
    offsets = [[index * tensor_bytes, (index + 1) * tensor_bytes] for index in range(count)]
    entries = {
        f"w{index}": {"dtype": "BF16", "shape": [tensor_bytes // 2], "data_offsets": offset}
        for index, offset in enumerate(offsets)
    }
    text = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _ in range(count):
            values = (0.02 * generator.standard_normal(tensor_bytes // 2)).astype("<f4")
            file.write((values.view("<u4") >> 16).astype("<u2").tobytes())


def contenders(plan: _engine.PackPlan, packs: list[bytes], digest: bytes) -> dict[str, Callable[[int], object]]:
    size, table = os.path.getsize("source/model.safetensors"), table_of("store", digest)
    manifest = _engine.read_manifest("artifact")

    def build(threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(plan.build, range(len(plan))):
                pass

    def verify(threads: int) -> None:
        for pack in packs:
            _engine.verify_pack(pack, threads)

    def hash_object() -> None:
        hasher = _engine.ObjectHasher()
        for pack in packs:
            hasher.push_records(pack, [row[1] for row in struct.iter_unpack(ROW, rows[id(pack)])])
        assert hasher.digest() == digest

    def assemble(turn: int) -> None:
        with _engine.Assembly(f"to-{turn}/store") as assembly:
            assembly.add(digest, size, table)
            for pack in packs:
                unpacked = list(struct.iter_unpack(ROW, rows[id(pack)]))
                assembly.take_records(memoryview(pack)[unpacked[0][1] : unpacked[-1][1] + unpacked[-1][2]])
            assert assembly.completed() == digest

    rows = {id(pack): _engine.verify_pack(pack)[1] for pack in packs}
    return {
        "cp": lambda turn: os.system(f"cp source/model.safetensors copy-{turn}"),
        "build": lambda turn: build(1),
        "build, 2 threads": lambda turn: build(2),
        "verify": lambda turn: verify(1),
        "verify, 2 threads": lambda turn: verify(2),
        "BLAKE3 of the packs": lambda turn: [_engine.digest(pack) for pack in packs],
        "hash the object": lambda turn: hash_object(),
        "assemble": assemble,
        "materialize": lambda turn: _engine.materialize(f"to-{turn}/store", f"to-{turn}/artifacts/x", manifest, b"{}"),
    }


def run(arguments: argparse.Namespace) -> None:
    with workplace():
        Path("source").mkdir()
        write_weights(Path("source/model.safetensors"), arguments.size)
        _engine.create_artifact("artifact")
        _engine.add_dir("store", "artifact", "source", "")
        digest, _ = _engine.manifest_objects(_engine.read_manifest("artifact"))
        plan = _engine.PackPlan("store", [(digest, pieces_of("store", digest))])
        packs = [plan.build(index)[0] for index in range(len(plan))]
        assert sum(map(len, packs)) < 0.67 * os.path.getsize("source/model.safetensors")
        seconds = alternate(contenders(plan, packs, digest), arguments.rounds, lambda name, turn: touch(256 << 20))
        report("packs", seconds, "cp", arguments.json)
        remove(*(f"to-{turn}" for turn in range(arguments.rounds)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512 << 20, help="bytes of the weights")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    run(parser.parse_args())

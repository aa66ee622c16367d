"""The engine's chunk tables against cuts made by the documented rules, for objects of every kind."""

from __future__ import annotations

import io
import json
import os
import random
import re
import struct
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import oracle
import oracle_cuts
import pytest
from numpy.lib import format as numpy_format
from oracle_cuts import CDC, KIB, TENSOR
from safetensors.numpy import save
from t9k import em

DAMAGED = int(os.environ.get("EM_FAULT_POINTS", "25"))
chance = random.Random(7)


def text(size: int) -> bytes:
    lines = (f'{{"step": {step}, "loss": {chance.random():.4f}, "epoch": 3}}\n' for step in range(size // 30))
    return "".join(lines).encode()[:size]


def bfloat16(size: int) -> bytes:
    weights = np.random.default_rng(7).normal(0, 0.02, size // 2 + 1).astype("<f4")
    return (weights.view("<u4") >> 16).astype("<u2").tobytes()[:size]


def tensors(*sizes: int) -> dict[str, bytes]:
    return {f"t{number}": chance.randbytes(size) for number, size in enumerate(sizes)}


def safetensors(tensors: dict[str, bytes], gap: int = 0, **fields: object) -> bytes:
    """Made by hand, so that it can lie; the library writes sorted and aligned ones only."""
    header: dict[str, dict[str, object]] = {}
    data = b""
    for name, content in tensors.items():
        start = len(data) + gap
        header[name] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [start, start + len(content)]} | fields
        data += content
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def gguf(tensors: dict[str, bytes], kind: int = 24, alignment: int = 32, shift: int = 0) -> bytes:
    def word(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 3)
    head += word("general.name") + struct.pack("<I", 8) + word("model")
    head += word("tokens") + struct.pack("<IIQ", 9, 8, 2) + word("a") + word("b")
    head += word("general.alignment") + struct.pack("<II", 4, alignment)
    data = b""
    for name, content in tensors.items():
        head += word(name) + struct.pack("<IQIQ", 1, len(content), kind, len(data) + shift)
        data += content + bytes(-len(content) % alignment)
    return head + bytes(-len(head) % alignment) + data


def zipped(members: dict[str, bytes], zip64: bool = False) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            with archive.open(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), "w", force_zip64=zip64) as member:
                member.write(content)
    return file.getvalue()


def torch(tensors: dict[str, bytes], zip64: bool = False) -> bytes:
    records = {f"archive/data/{number}": content for number, content in enumerate(tensors.values())}
    return zipped({"archive/data.pkl": b"pickle" * 30} | records | {"archive/version": b"3\n"}, zip64=zip64)


def many_entries_zip() -> bytes:
    """So many members that the directory needs the zip64 end record."""
    return zipped({"x/data.pkl": b""} | {f"x/data/{number}": bytes([number % 251]) * 9 for number in range(66_000)})


def npy(array: np.ndarray, version: tuple[int, int] | None = None) -> bytes:
    file = io.BytesIO()
    numpy_format.write_array(file, array, version)
    return file.getvalue()


def npz(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


MIB = 1024 * KIB
ODD = (300_001, 7, 65_535, 65_536, 1, 200_000, 30_000, 30_000, 10_000)
RESTS = (MIB + 64 * KIB - 1, MIB + 64 * KIB, MIB + 1, 2 * MIB, 64 * KIB)
FLOATS = np.random.default_rng(1).normal(size=(301, 257)).astype("<f4")

OBJECTS: dict[str, tuple[int, Callable[[], bytes]]] = {
    "random": (CDC, lambda: chance.randbytes(700_001)),
    "text": (CDC, lambda: text(700_001)),
    "zeros": (CDC, lambda: bytes(700_001)),
    "bfloat16": (CDC, lambda: bfloat16(1_300_003)),
    "shortest with a table": (CDC, lambda: chance.randbytes(256 * KIB + 1)),
    "safetensors of the library": (
        TENSOR,
        lambda: save({f"layer.{i}": FLOATS[: 7 * i + 1] for i in range(40)}, {"format": "pt"}),
    ),
    "safetensors of odd sizes": (TENSOR, lambda: safetensors(tensors(*ODD))),
    "safetensors with rests": (TENSOR, lambda: safetensors(tensors(*RESTS))),
    "safetensors with many small tensors": (
        TENSOR,
        lambda: safetensors(tensors(*(chance.randrange(3000) for _ in range(900)))),
    ),
    "safetensors of an unknown type": (TENSOR, lambda: safetensors(tensors(*ODD), dtype="F4", shape=[1])),
    "safetensors with a gap": (CDC, lambda: safetensors(tensors(*ODD), gap=1)),
    "safetensors with a wrong shape": (CDC, lambda: safetensors(tensors(*ODD), shape=[1])),
    "safetensors cut off": (CDC, lambda: safetensors(tensors(*ODD))[:-1]),
    "torch": (TENSOR, lambda: torch(tensors(*ODD))),
    "torch with rests": (TENSOR, lambda: torch(tensors(*RESTS))),
    "torch zip64": (TENSOR, lambda: torch(tensors(*ODD), zip64=True)),
    "torch with many tensors": (TENSOR, many_entries_zip),
    "zip without a pickle": (CDC, lambda: zipped({"x/data/0": chance.randbytes(300_000)})),
    "zip of texts": (CDC, lambda: zipped({"a.txt": chance.randbytes(300_000)})),
    "zip with a comment cut off": (CDC, lambda: torch(tensors(*ODD))[:-1]),
    "gguf": (TENSOR, lambda: gguf(tensors(*ODD))),
    "gguf with rests": (TENSOR, lambda: gguf(tensors(*RESTS), alignment=4096)),
    "gguf of an unknown type": (TENSOR, lambda: gguf(tensors(*ODD), kind=999)),
    "gguf with a bad offset": (CDC, lambda: gguf(tensors(*ODD), shift=1)),
    "gguf beyond its end": (CDC, lambda: gguf(tensors(*ODD), kind=0)),
    "npy": (TENSOR, lambda: npy(FLOATS)),
    "npy 2.0": (TENSOR, lambda: npy(np.asfortranarray(FLOATS), (2, 0))),
    "npy of dates": (TENSOR, lambda: npy(np.arange(70_000).astype("M8[ns]"))),
    "npy of strings": (TENSOR, lambda: npy(np.array(["größe", "b"] * 9000))),
    "npy with bytes left over": (TENSOR, lambda: npy(FLOATS) + b"tail"),
    "npy of records": (CDC, lambda: npy(np.zeros(40_000, [("a", "<f4"), ("b", "<i8")]))),
    "npy cut off": (CDC, lambda: npy(FLOATS)[:-1]),
    "npz": (TENSOR, lambda: npz(np.savez, a=FLOATS, b=FLOATS[:9].astype(complex), c=np.array([{}], object))),
    "npz compressed": (CDC, lambda: npz(np.savez_compressed, a=FLOATS)),
}


def table_of(data: bytes) -> oracle.ChunkTable:
    digest = oracle.digest(data)
    return oracle.chunk_table(Path(".em/store/chunks", digest[:2], digest[2:]).read_bytes())


@pytest.mark.parametrize("name", OBJECTS)
def test_cuts_of_the_engine_are_those_of_the_documented_rules(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    expected, make = OBJECTS[name]
    data = make()
    Path("object").write_bytes(data)
    em.create_artifact("x").add_file("object")
    table = table_of(data)
    chunker, lengths = oracle_cuts.chunks(data)
    assert (chunker, table.chunker) == (expected, expected)
    assert [length for _, length in table.chunks] == lengths
    assert sum(lengths) == len(data)


def damaged(data: bytes) -> bytes:
    """With one to three numbers of the index changed: in the headers of a zip, else at the start."""
    changed = bytearray(data)
    headers = [match.start() for match in re.finditer(b"PK[\\1-\\7]", data)]
    for _ in range(chance.randrange(1, 4)):
        at = chance.choice(headers) + chance.randrange(60) if headers else chance.randrange(400)
        width = chance.choice([1, 1, 2, 4, 8])
        value = chance.choice(
            [0, 1, 9, 32, 48, 255, chance.randrange(1 << 64), (1 << 64) - 1, chance.randrange(300_000)]
        )
        new = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
        changed[at : at + width] = new[: max(0, len(data) - at)]
    return bytes(changed)


def test_both_agree_which_damaged_indexes_are_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    few = tensors(90_000, 70_001, 5, 110_000)
    arrays = {f"{name}.npy": npy(np.frombuffer(content, "u1")) for name, content in few.items()}
    whole = [safetensors(few), torch(few), torch(few, zip64=True), gguf(few), zipped(arrays), npy(FLOATS)]
    objects = [damaged(data) for data in whole for _ in range(DAMAGED)]
    Path("objects").mkdir()
    for number, data in enumerate(objects):
        Path("objects", f"{number}").write_bytes(data)
    em.create_artifact("x").add_dir("objects")
    usable = 0
    for number, data in enumerate(objects):
        table, spans = table_of(data), oracle_cuts.usable_index(data)
        assert table.chunker == (CDC if spans is None else TENSOR), number
        if spans is not None:
            ends = oracle_cuts.tensor_cuts(spans, len(data))
            assert [length for _, length in table.chunks] == [end - start for start, end in pairwise([0, *ends])], (
                number
            )
            usable += 1
    assert len(objects) // 10 < usable < len(objects) * 9 // 10

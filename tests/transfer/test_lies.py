"""Servers that lie about chunks: a load asks once more, then it is an IntegrityError, and nothing wrong is on disk."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import plain_client
import pytest
from harness import Serving
from liar import lying
from plain_client import PlainClient, digest, signed
from t9k import em
from t9k.em.errors import IntegrityError
from trees import contents

CHUNKS = (1 << 16) + 1000
"""Of 4 bytes: more than are asked for at once, so that the end of this object waits for the next window."""

FILES = {"a": b"".join(struct.pack("<I", number) for number in range(CHUNKS)), "b": os.urandom(500_000)}


@pytest.fixture(scope="module")
def finely_cut(server: Serving) -> str:
    """The path of an artifact whose first file has so many chunks."""
    place = {"folder": "/admin/lies", "make_folder": True, "name": "fine", "conflict_strategy": "replace"}
    with pytest.MonkeyPatch.context() as patch:
        cut = plain_client.cut
        fine = [FILES["a"][start : start + 4] for start in range(0, len(FILES["a"]), 4)]
        patch.setattr(plain_client, "cut", lambda data: fine if data == FILES["a"] else cut(data))
        PlainClient(server.url, server.api_key).upload(FILES, place, "fine")
    return "lies/fine"


def contradicting(answer: bytes) -> bytes:
    """Two chunk tables, of which the second names the last chunk of the first, and gives it another length."""
    (length,) = struct.unpack_from("<40xQ", answer)
    behind = 48 + length
    last_of_first = answer[behind - 8 - 36 : behind - 8 - 4]
    second = answer[behind + 48 : -8]
    return answer[: behind + 48] + signed(second[:32] + last_of_first + second[64:])


@pytest.mark.parametrize("lies", [1, 2])
def test_chunk_tables_that_contradict_each_other_late_are_asked_for_once_more(
    home: Path, server: Serving, finely_cut: str, lies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t9k.em.client.artifacts._LEAST_MEAN_CHUNK_BYTES", 4)
    told: list[str] = []

    def lie(path: str, answer: bytes) -> bytes:
        if "/objects?" not in path:
            return answer
        told.append(path)
        return contradicting(answer) if len(told) <= lies else answer

    with lying(server.url, lie) as url:
        em.login(url, server.api_key)
        if lies == 1:
            loaded = em.load_artifact(finely_cut)
            assert {path: entry and entry[0] for path, entry in contents(loaded.local).items()} == FILES
        else:
            with pytest.raises(IntegrityError, match="different lengths"):
                em.load_artifact(finely_cut)
            assert not list((home / ".em").glob("artifacts/*"))
            right = {digest(data).hex() for data in FILES.values()}
            kept = {path.parent.name + path.name for path in (home / ".em" / "store" / "objects").glob("*/*")}
            assert kept <= right
    assert len(told) == 2

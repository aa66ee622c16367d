"""Packs and ranges of packs on their way: how many at once, and that records near to each other come in one."""

from __future__ import annotations

import os
import random
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness import Serving
from t9k import em
from t9k.em.client import artifacts
from t9k.em.client.artifacts import Place
from t9k.em.transfer.fetch import GAP_BYTES, RANGE_BYTES, RECEIVERS, ranges
from t9k.em.transfer.packs import PACK_BYTES, SENDERS
from trees import artifact_of, contents


def test_several_packs_and_ranges_are_in_flight(home: Path, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    em.login(server.url, server.api_key)
    made = artifact_of("flying", os.urandom(SENDERS * PACK_BYTES))
    put, get = artifacts.put_pack, artifacts.pack_range
    sent, received = threading.Barrier(SENDERS), threading.Barrier(RECEIVERS)
    puts, gets = [0], [0]

    def put_together(*given: Any) -> Any:
        puts[0] += 1
        if puts[0] <= SENDERS:
            sent.wait(60)  # broken unless so many are under way at once
        return put(*given)

    def get_together(*given: Any) -> Any:
        gets[0] += 1
        if gets[0] <= RECEIVERS:
            received.wait(60)
        return get(*given)

    monkeypatch.setattr(artifacts, "put_pack", put_together)
    monkeypatch.setattr(artifacts, "pack_range", get_together)
    made.upload("ranges", make_folder=True)
    (home.parent / "other").mkdir()
    monkeypatch.chdir(home.parent / "other")
    assert contents(em.load_artifact("ranges/flying").local) == contents(made.local)
    assert puts[0] >= SENDERS
    # No more ranges than their longest length asks for, and one more for each pack.
    assert RECEIVERS <= gets[0] <= SENDERS * PACK_BYTES // RANGE_BYTES + 2 * puts[0]


@pytest.mark.parametrize("seed", range(20))
def test_ranges_hold_every_place_once_and_no_long_gap(seed: int) -> None:
    chance = random.Random(seed)
    places: list[Place] = []
    for pack in (b"a" * 32, b"b" * 32, b"c" * 32):
        offset = 12
        for _ in range(chance.randrange(200)):
            length = chance.choice((60, 5_000, 60_000, 1_000_000))
            offset += chance.choice((0, 0, 0, 41, GAP_BYTES, GAP_BYTES + 1, 3_000_000))
            places.append(Place(pack, offset, length))
            offset += length
    chance.shuffle(places)
    found = ranges(places, [place.length * 2 for place in places])
    for span in found:
        inside = sorted((p.offset, p.end) for p in places if p.pack == span.pack and span.start <= p.offset < span.end)
        assert (span.start, span.end) == (inside[0][0], inside[-1][1])
        assert span.end - span.start <= RANGE_BYTES
        gaps = [second - first for (_, first), (second, _) in pairwise(inside)]
        assert all(0 <= gap <= GAP_BYTES for gap in gaps)
        assert sum(end - start for start, end in span.runs) == sum(end - start for start, end in inside)
        assert span.raw_bytes == 2 * sum(end - start for start, end in inside)
    assert sum(span.raw_bytes for span in found) == 2 * sum(place.length for place in places)
    for first, second in pairwise(found):  # two that could be one would be one request too many
        is_near = first.pack == second.pack and second.start - first.end <= GAP_BYTES
        first_of_second = min(p.end for p in places if (p.pack, p.offset) == (second.pack, second.start))
        assert not is_near or first_of_second - first.start > RANGE_BYTES

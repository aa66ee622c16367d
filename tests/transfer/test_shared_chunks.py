"""Uploads of several processes that share chunks: they divide them, and nobody waits long for who died."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from harness import Serving
from proxy import Faults, proxied
from t9k import em
from t9k.em.client import artifacts
from t9k.em.client.connection import connected
from t9k.em.client.placement import Target
from t9k.em.transfer import packs
from t9k.em.transfer.upload import upload_artifact
from trees import artifact_of

UPLOADING = """
import sys
from t9k import em
em.login(*sys.argv[1:3])
em.load_artifact(sys.argv[3]).upload("claims", make_folder=True)
"""


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long uploads of this process wait for others."""
    made: list[float] = []

    def pause(length_s: float) -> None:
        made.append(length_s)
        time.sleep(length_s)

    monkeypatch.setattr(packs, "time", SimpleNamespace(sleep=pause))
    return made


def test_chunks_that_another_claims_are_waited_for_and_then_sent_all_the_same(
    server: Serving, home: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    em.login(server.url, server.api_key)
    made, asked = artifact_of("held", os.urandom(300_000), os.urandom(100)), []
    ask = artifacts.missing

    def busy(session: object, chunks: list[bytes], lease: object, *, claim: bool) -> artifacts.Missing:
        found = ask(session, chunks, lease, claim=claim)  # type: ignore[arg-type]
        asked.append(claim)
        return artifacts.Missing(found.lease, found.absent, found.absent if claim else [])

    monkeypatch.setattr(artifacts, "missing", busy)
    monkeypatch.setattr(packs, "LONGEST_WAIT_S", 3.0)
    report = upload_artifact(connected(), made, Target("claims", True)).report
    assert report.new_bytes == 300_100
    assert 3.0 <= sum(pauses) < 3.0 + packs.LONGEST_PAUSE_S
    assert asked == [True] * len(pauses) + [False]


def test_upload_of_chunks_that_nobody_else_sends_waits_for_nothing(
    server: Serving, home: Path, pauses: list[float]
) -> None:
    em.login(server.url, server.api_key)
    with proxied(server.url) as counting:
        em.login(counting.url, server.api_key)
        counting.reset()
        # Two turns of packs and one of the rest.
        artifact_of("long", os.urandom(150 << 20)).upload("claims", make_folder=True)
        asked = sum("missing" in request for request in counting.requests)
    assert asked == 1 + 3
    assert pauses == []


def test_upload_is_not_held_up_by_one_that_was_killed_in_the_middle_of_a_pack(
    server: Serving, home: Path, pauses: list[float]
) -> None:
    made = artifact_of("killed", os.urandom(8 << 20))
    with proxied(server.url, Faults(bytes_per_s=500e3)) as slow:
        process = subprocess.Popen([sys.executable, "-c", UPLOADING, slow.url, server.api_key, made.local])
        while slow.sent_bytes < 1 << 20:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    em.login(server.url, server.api_key)
    report = upload_artifact(connected(), made, Target("claims", True)).report
    assert report.new_bytes == 8 << 20
    assert sum(pauses) < packs.LONGEST_WAIT_S

"""Uploads of one process that share chunks."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from harness import Serving
from t9k import em
from t9k.em.client.connection import connected
from t9k.em.client.placement import Target
from t9k.em.transfer.in_flight import InFlight
from t9k.em.transfer.upload import upload_artifact
from trees import artifact_of


def test_uploads_at_once_send_shared_chunks_once(server: Serving, home: Path) -> None:
    em.login(server.url, server.api_key)
    shared = [os.urandom(3_000_000) for _ in range(4)]
    made = [artifact_of(f"a{number}", *shared, os.urandom(1000)) for number in range(4)]
    reports = []

    def upload(artifact: em.Artifact) -> None:
        reports.append(upload_artifact(connected(), artifact, Target()).report)

    threads = [threading.Thread(target=upload, args=(artifact,)) for artifact in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(report.new_bytes for report in reports) == 4 * 3_000_000 + 4 * 1000


def test_claims_are_exclusive_until_they_are_released() -> None:
    place = InFlight()
    assert place.claim([b"a", b"b"]) == {b"a", b"b"}
    assert place.claim([b"b", b"c"]) == {b"c"}
    done = threading.Event()

    def other() -> None:
        place.wait({b"b"})
        done.set()

    thread = threading.Thread(target=other)
    thread.start()
    assert not done.wait(0.05)
    place.release({b"a", b"b"})
    thread.join(10)
    assert done.is_set()
    place.wait({b"a"})


def test_failed_upload_leaves_its_chunks_to_the_next(
    server: Serving, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t9k.em.client import artifacts
    from t9k.em.errors import TransferError

    em.login(server.url, server.api_key)
    made = artifact_of("x", os.urandom(2_000_000))
    put_pack = artifacts.put_pack

    def fail(*_: object) -> None:
        raise TransferError("no")

    monkeypatch.setattr(artifacts, "put_pack", fail)
    with pytest.raises(TransferError):
        made.upload()
    monkeypatch.setattr(artifacts, "put_pack", put_pack)
    made.upload()

"""`em upload --dry-run` says to the byte what the upload then sends, and changes nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from harness import Serving
from proxy import Proxy
from t9k import em
from test_round_trip import wait_until_known
from trees import make_artifact, make_tree

ASKING = ("GET", "POST /api/v1/artifacts/plan", "POST /api/v1/artifacts/missing")
COUNTS = ("total_bytes", "objects", "shared_bytes", "new_bytes", "packed_bytes", "packs", "record_bytes")


pytestmark = pytest.mark.usefixtures("logged_in")


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.node.name.partition("[")[0])


def em_upload(*arguments: str, code: int = 0) -> str:
    """What it prints, progress left out."""
    command = [sys.executable, "-m", "t9k.em", "upload", *arguments]
    environment = {**os.environ, "EM_QUIET": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def documents(*arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(em_upload("--json", *arguments))
    return found


def files(home: Path) -> dict[str, tuple[int, int]]:
    """What is in the artifacts and runs of a home, and when it was changed."""
    found = [path for part in ("artifacts", "runs") for path in (home / ".em" / part).rglob("*")]
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in found}


def sent_bytes(proxy: Proxy) -> tuple[int, int]:
    """Of packs, and of all else that changed something, heads of requests left out."""
    bodies = [pair for pair in zip(proxy.requests, proxy.body_bytes, strict=True) if not pair[0].startswith(ASKING)]
    packs = sum(size for request, size in bodies if "/packs/" in request)
    return packs, sum(size for _, size in bodies) - packs


def assert_weighs_what_is_sent(
    home: Path, proxy: Proxy, *arguments: str, server: Serving | None = None
) -> list[dict[str, Any]]:
    """Weighs, then uploads; answers what was weighed. With a server, once that has hashed what it got."""
    before = files(home)
    proxy.reset()
    weighed = documents("--dry-run", *arguments)
    assert all(request.startswith(ASKING) for request in proxy.requests), proxy.requests
    assert files(home) == before
    proxy.reset()
    sent = documents(*arguments)
    assert [one["path"] for one in weighed] == [one["path"] for one in sent]
    for count in COUNTS:
        assert sum(one[count] for one in weighed) == sum(one[count] for one in sent), count
    packed, record = sent_bytes(proxy)
    assert packed == sum(one["packed_bytes"] for one in weighed)
    assert record == sum(one["record_bytes"] for one in weighed)
    for one in sent if server is not None else []:
        wait_until_known(server, one["path"])
    return weighed


def make_run(name: str, *, artifacts: list[em.Artifact], points: int = 300) -> em.Run:
    run = em.create_run(name=name, hparams={"lr": 0.1, "bad": math.inf})
    for step in range(points):
        run.log("train", {"loss": 1 / (step + 1), "step": step}, step)
        run.log("val", {"accuracy": step / points}, step)
    for artifact in artifacts:
        run.mark_output(artifact)
    run.finish()
    Path(run.local, "stdout.log").write_bytes(b"epoch\n" * 1000)
    return run


def test_artifact_is_weighed_to_the_byte(home: Path, proxy: Proxy, folder: str, server: Serving) -> None:
    first = make_artifact(make_tree(home / "tree", seed=1), "first")
    place = ("--folder", folder, "--make-folder")
    (weighed,) = assert_weighs_what_is_sent(home, proxy, first.local, *place, server=server)
    assert weighed["new_bytes"] > 3 << 20
    (home / "tree" / "more.bin").write_bytes(os.urandom(700_000))
    second = make_artifact(home / "tree", "second")
    (weighed,) = assert_weighs_what_is_sent(home, proxy, second.local, *place)
    assert weighed["new_bytes"] == 700_000
    assert weighed["shared_bytes"] > 3 << 20


def test_run_is_weighed_with_its_record_and_its_artifacts(home: Path, proxy: Proxy, folder: str) -> None:
    artifact = make_artifact(make_tree(home / "tree", seed=2), "marked")
    run = make_run("whole", artifacts=[artifact])
    (weighed,) = assert_weighs_what_is_sent(home, proxy, run.local, "--folder", folder, "--make-folder")
    assert weighed["packed_bytes"] > 3 << 20
    assert weighed["record_bytes"] > 300 * 3 * 8 + 6000
    alone = make_run("alone", artifacts=[])
    (weighed,) = assert_weighs_what_is_sent(home, proxy, alone.local, "--folder", folder)
    assert weighed["packed_bytes"] == 0


def test_run_of_which_some_was_sent_is_weighed_without_that(
    home: Path, proxy: Proxy, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t9k.em.client import runs
    from t9k.em.errors import TransferError

    run = make_run("cut", artifacts=[])

    def cut(*_: object) -> None:
        raise TransferError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "put_log", cut)
        with pytest.raises(TransferError):
            run.upload(folder, make_folder=True)
    (weighed,) = assert_weighs_what_is_sent(home, proxy, run.local, "--folder", folder)
    assert 6000 < weighed["record_bytes"] < 10_000  # the log, and no metrics


def test_directory_is_weighed_with_shared_chunks_once(home: Path, proxy: Proxy, folder: str) -> None:
    for number in range(3):
        tree = make_tree(home / f"tree{number}", seed=3)
        (tree / "own.bin").write_bytes(os.urandom(300_000))
        make_artifact(tree, f"a{number}")
    weighed = assert_weighs_what_is_sent(home, proxy, ".em/artifacts", "--folder", folder, "--make-folder")
    assert [one["new_bytes"] for one in weighed[1:]] == [300_000, 300_000]
    for number in range(2):
        make_run(f"r{number}", artifacts=[], points=10)
    assert_weighs_what_is_sent(home, proxy, ".em/runs", "--folder", folder)


def test_terminal_shows_exact_bytes_and_a_sum(home: Path, proxy: Proxy, folder: str, server: Serving) -> None:
    for number in range(2):
        (home / "file").write_bytes(os.urandom(123_456))
        made = em.create_artifact(f"b{number}")
        made.add_file("file")
    text = em_upload(".em/artifacts", "--folder", folder, "--make-folder", "--dry-run")
    assert f"would become /{server.user}/{folder}/b0: 123,456 B new, 123," in text
    assert "2 of 2 weighed, 0 failed; 246,912 B new, 24" in text


@pytest.mark.parametrize(("strategy", "outcome"), [("skip", "would be skipped"), ("error", "is there already")])
def test_taken_name_is_found_out(home: Path, proxy: Proxy, folder: str, strategy: str, outcome: str) -> None:
    folder = f"{folder}-{strategy}"
    made = make_artifact(make_tree(home / "tree", seed=4), "taken")
    run = make_run("trained", artifacts=[])
    for local in (made.local, run.local):
        em_upload(local, "--folder", folder, "--make-folder")
        arguments = [local, "--folder", folder, "--dry-run", "--conflict", strategy]
        assert outcome in em_upload(*arguments, code=0 if strategy == "skip" else 1)


def test_new_name_replaced_name_and_missing_folder_are_found_out(
    home: Path, proxy: Proxy, folder: str, server: Serving
) -> None:
    made = make_artifact(make_tree(home / "tree", seed=5), "named")
    assert "make-folder" in em_upload(made.local, "--folder", folder, "--dry-run", code=1)
    em_upload(made.local, "--folder", folder, "--make-folder")
    wait_until_known(server, f"/{server.user}/{folder}/named")
    for strategy, name in (("new", made.alternative_name), ("replace", "named")):
        assert_weighs_what_is_sent(home, proxy, made.local, "--folder", folder, "--conflict", strategy)
        assert em.load_artifact(made.local).remote[-1]["path"] == f"/{server.user}/{folder}/{name}"


def test_report_has_all_counts() -> None:
    from t9k.em.transfer.progress import Report

    assert set(asdict(Report())) == set(COUNTS)

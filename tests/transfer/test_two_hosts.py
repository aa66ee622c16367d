"""Two hosts with a shared directory: processes that differ in host name, process numbers and cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from chunks import pieces_of
from harness import Serving
from proxy import Faults, Proxy
from t9k import em
from t9k.em.client import artifacts, connection, runs
from t9k.em.sync import state as states
from trees import contents, make_artifact, make_tree

LARGE_BYTES = 40 << 20
OTHER_HOST = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "sh", "-c", 'hostname "$0"; exec "$@"']

Host = Callable[..., "subprocess.Popen[str]"]


def can_be_another_host() -> bool:
    try:
        return subprocess.run([*OTHER_HOST, "other", "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def host(home: Path, tmp_path: Path, proxy: Proxy, server: Serving) -> Host:
    """Starts `em` on a host of the given name, in the directory that all hosts share."""
    config = f"current-context: c\ncontexts: [{{name: c, server: {proxy.url}, prefixes: {{aistore: ''}}, "
    Path(os.environ["T9K_CONFIG"]).write_text(config + f"auth: {{apikey: {server.api_key}}}}}]\n")
    em.login(server.url, server.api_key)
    prefix = OTHER_HOST if can_be_another_host() else []

    def start(name: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*prefix, *([name] if prefix else []), sys.executable, "-m", "t9k.em", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / f"cache-{name}")},
        )

    return start


def ended(process: subprocess.Popen[str]) -> dict[str, object]:
    """What an `em upload --json` of one directory says."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    (document,) = json.loads(out)
    return dict(document)


def test_artifact_uploaded_by_two_hosts_at_once_is_stored_once(host: Host, home: Path, server: Serving) -> None:
    before = sum(path.stat().st_size for path in server.data.rglob("*") if path.is_file())
    artifact = make_artifact(make_tree(home / "tree", large_bytes=LARGE_BYTES), "shared")
    options = ("upload", artifact.local, "--folder", "at-once", "--make-folder", "--conflict", "skip", "--json")
    said = [ended(process) for process in [host("one", *options), host("two", *options)]]
    assert {one["path"] for one in said} == {"/admin/at-once/shared"}
    assert [one["created"] for one in said].count(True) == 1
    stored = sum(path.stat().st_size for path in server.data.rglob("*") if path.is_file())
    assert stored - before < 1.1 * LARGE_BYTES  # whatever travelled twice
    loaded = em.load_artifact("at-once/shared")
    assert contents(loaded.local) == contents(artifact.local)
    remote = em.load_artifact(artifact.local).remote
    assert [line["path"] for line in remote] == ["/admin/at-once/shared"]


def test_upload_of_a_host_that_died_is_continued_by_another(host: Host, home: Path, proxy: Proxy) -> None:
    artifact = make_artifact(make_tree(home / "tree", seed=5, large_bytes=2 * LARGE_BYTES), "dying")
    proxy.faults = Faults(bytes_per_s=20e6)
    options = ("upload", artifact.local, "--folder", "died", "--make-folder", "--json")
    first = host("one", *options)
    while missing_bytes(artifact) > 2 * LARGE_BYTES - (15 << 20):  # until the server has acknowledged a pack
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.kill()
    first.communicate()
    proxy.cut_all()
    proxy.faults = Faults()
    left = missing_bytes(artifact)
    proxy.reset()
    said = ended(host("two", *options))
    assert said["path"] == "/admin/died/dying"
    assert proxy.sent_bytes < left + (1 << 20)
    assert contents(em.load_artifact("died/dying").local) == contents(artifact.local)


def missing_bytes(artifact: em.Artifact) -> int:
    """Of the large file, as the server tells."""
    (large,) = (entry for entry in artifact.objects if entry["path"] == "large.bin")
    pieces = pieces_of(".em/store", bytes.fromhex(large["digest"]))
    asked = [digest for _, digest, _ in pieces]
    absent = artifacts.missing(connection.connected(), asked, None, claim=False).absent
    return sum(pieces[index][2] for index in absent)


def test_run_uploaded_by_two_hosts_at_once_is_one_run(host: Host, home: Path, proxy: Proxy) -> None:
    run = em.create_run(name="shared")
    for step in range(5000):
        run.log("train", {"x": step}, step=step)
    run.mark_output(make_artifact(make_tree(home / "tree", seed=6), "made"))
    run.finish()
    options = ("upload", run.local, "--folder", "runs", "--make-folder", "--conflict", "skip", "--json")
    said = [ended(process) for process in [host("one", *options), host("two", *options)]]
    assert {one["path"] for one in said} == {"/admin/runs/shared"}
    batches = [request for request in proxy.requests if "/metrics/" in request]
    assert len(batches) == len(set(batches))
    state = states.load(run.local)
    assert state is not None
    assert runs.metric_counts(connection.connected(), state.node_id, "x") == {"train": 5000}
    assert sum("/packs/" in request for request in proxy.requests) == 1

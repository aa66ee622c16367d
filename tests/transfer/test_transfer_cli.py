"""The verbs of `em` that talk to a server, as processes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness import Serving
from liar import lying
from proxy import Faults, Proxy, proxied
from t9k import em
from t9k.em import _engine
from t9k.em.client import artifacts, nodes
from t9k.em.client.connection import connected
from t9k.em.errors import NotFoundError
from t9k.em.transfer.origins import find_on_server
from trees import artifact_of, contents, make_artifact, make_tree

EM = [sys.executable, "-m", "t9k.em"]


def run(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EM, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


@pytest.fixture
def configured(home: Path, server: Serving, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory whose configuration file was written by `em login`."""
    done = run("login", "--host", server.url, "--api-key-stdin", stdin=server.api_key)
    assert done.returncode == 0, done.stderr
    assert server.api_key not in done.stdout + done.stderr
    return home


def test_login_asks_the_server_and_keeps_no_wrong_key(home: Path, server: Serving) -> None:
    done = run("login", "--host", server.url, "--api-key-stdin", stdin="em_pat_" + "0" * 33)
    assert done.returncode == 1
    assert "no valid API key" in done.stderr
    assert "000000" not in done.stderr
    assert not Path(os.environ["T9K_CONFIG"]).exists()


def test_upload_and_load_of_an_artifact(configured: Path, server: Serving, tmp_path: Path) -> None:
    artifact = make_artifact(make_tree(configured / "tree", seed=31))
    (weighed,) = json.loads(
        run("upload", artifact.local, "--folder", "cli", "--make-folder", "--dry-run", "--json").stdout
    )
    assert weighed["path"] == f"/{server.user}/cli/things"
    assert weighed["new_bytes"] > 3 << 20
    assert 0 < weighed["packed_bytes"] < weighed["new_bytes"] * 1.1
    done = run("upload", artifact.local, "--folder", "cli", "--make-folder", "--json")
    assert done.returncode == 0, done.stderr
    (sent,) = json.loads(done.stdout)
    assert sent["path"] == f"/{server.user}/cli/things"
    assert sent["created"] is True
    for count in ("new_bytes", "packed_bytes", "shared_bytes", "total_bytes", "objects", "packs", "record_bytes"):
        assert sent[count] == weighed[count], count  # the dry run was exact
    again = run("upload", artifact.local, "--folder", "cli", "--conflict", "skip")
    assert again.returncode == 0
    assert "skipped" in again.stdout

    loaded = run("load", "cli/things", "--into", str(tmp_path / "into"))
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip() == str(tmp_path / "into")
    assert contents(tmp_path / "into") == contents(artifact.local)
    some = run("load", "cli/things", "--file", "d0", "--file", "run.sh", "--into", str(tmp_path / "some"))
    assert len(some.stdout.splitlines()) == len(contents(tmp_path / "some"))
    assert contents(tmp_path / "some").items() <= contents(artifact.local).items()


def test_upload_of_many_goes_on_after_a_failure_and_exits_with_1(configured: Path, server: Serving) -> None:
    made = [make_artifact(make_tree(configured / f"t{seed}", seed=seed, small=2), f"a{seed}") for seed in (41, 42, 43)]
    Path(made[1].local, ".artifact", "metadata.json").write_text("{")
    done = run("upload", ".em/artifacts", "--folder", "many", "--make-folder")
    assert done.returncode == 1
    assert "2 of 3 done, 1 failed" in done.stdout
    assert made[1].alternative_name in done.stderr
    done = run("upload", ".em/artifacts", "--folder", "many", "--conflict", "skip", "--json")
    documents = json.loads(done.stdout)
    assert [one.get("kind") for one in documents] == [None, "invalid_input", None]
    assert [one["created"] for one in documents] == [False, False, False]


@pytest.mark.parametrize(
    "arguments", [["load", "nothing/here"], ["upload", "no-such-directory"], ["load", "a", "--file", "b"]]
)
def test_errors_are_one_line_and_exit_1(configured: Path, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr


def test_progress_shows_bytes_rate_time_and_savings_after_two_seconds(
    configured: Path, server: Serving, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    em.login(server.url, server.api_key)
    monkeypatch.setattr("t9k.em.progress.SILENT_S", 0.0)
    monkeypatch.setattr("t9k.em.progress.LINE_EVERY_S", 0.0)
    artifact = make_artifact(make_tree(configured / "tree", seed=51))
    artifact.upload("progress", make_folder=True)
    capsys.readouterr()
    (configured / "more.bin").write_bytes(os.urandom(1 << 20))
    artifact.add_file("more.bin")
    artifact.upload("progress", conflict_strategy="replace")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("upload: ")]
    assert re.fullmatch(r"upload: checking 4\.\d MiB", lines[0])
    sizes, left = r"[\d.]+ (B|KiB|MiB)", r"(\d+ s left|no time known)"
    shown = re.compile(rf"upload: {sizes} of 1\.0 MiB, {sizes}/s, {left}; 3\.\d MiB need not travel")
    assert lines[1:]
    assert all(shown.fullmatch(line) for line in lines[1:]), lines
    monkeypatch.setenv("EM_QUIET", "1")
    artifact.upload("progress", conflict_strategy="replace")
    assert capsys.readouterr().err == ""


def test_offline_mode_asks_no_server(configured: Path) -> None:
    artifact = em.create_artifact("offline")
    done = run("upload", artifact.local, EM_MODE="offline")
    assert done.returncode == 1
    assert "offline" in done.stderr


def test_interrupted_upload_ends_at_once_and_says_how_to_go_on(configured: Path, server: Serving) -> None:
    artifact = make_artifact(make_tree(configured / "tree", seed=71, large_bytes=8 << 20))
    with proxied(server.url, Faults(bytes_per_s=500e3)) as slow:
        done = run("login", "--host", slow.url, "--api-key-stdin", stdin=server.api_key)
        assert done.returncode == 0, done.stderr
        command = [*EM, "upload", artifact.local, "--folder", "cut", "--make-folder"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while slow.sent_bytes < 1 << 20:  # one pack is on its way, and would be for 16 s
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (130, "")
        assert err.endswith("Interrupted; the same command goes on where this one was\n")
        assert slow.sent_bytes < 6 << 20
    assert run("login", "--host", server.url, "--api-key-stdin", stdin=server.api_key).returncode == 0
    assert run("upload", artifact.local, "--folder", "cut", "--make-folder").returncode == 0


def test_missing_folder_is_an_error_before_anything_is_sent(configured: Path, server: Serving) -> None:
    artifact = make_artifact(make_tree(configured / "tree", seed=72))
    em.login(server.url, server.api_key)
    with proxied(server.url) as counting:
        em.login(counting.url, server.api_key)
        counting.reset()
        with pytest.raises(NotFoundError, match=r"no folder /admin/nowhere \(hint: make_folder=True makes it"):
            artifact.upload("nowhere")
        assert not any("/packs/" in request for request in counting.requests)


def test_newcomers_share_a_folder(configured: Path, server: Serving, tmp_path: Path) -> None:
    """As the README says: a second user is added, a folder made and shared, and both work in it."""
    added = [sys.executable, "-m", "t9k.aistore", "--data", str(server.data), "users", "add", "bob", "--key", "--json"]
    (bob,) = json.loads(subprocess.run(added, capture_output=True, check=True).stdout)
    theirs = {"T9K_CONFIG": str(tmp_path / "bob.yaml")}
    assert run("login", "--host", server.url, "--api-key-stdin", stdin=bob["api_key"], **theirs).returncode == 0
    artifact = make_artifact(make_tree(configured / "tree", seed=32, large_bytes=1000))
    assert run("share", "none", "bob").returncode == 1
    done = run("share", "both/team", "--make-folder", "bob", "--json")
    assert json.loads(done.stdout) == {"path": f"/{server.user}/both/team", "shares": {"bob": "view"}}
    shared = f"Folder    /{server.user}/both/team\n"
    assert shared in run("ls", "--server", **theirs).stdout
    assert shared not in run("ls", "--server", "/bob", **theirs).stdout  # a path is asked for alone
    into = ["upload", artifact.local, "--folder", f"/{server.user}/both/team"]
    refused = run(*into, **theirs)
    assert refused.returncode == 1
    assert "may not" in refused.stderr
    assert "bob may edit" in run("share", "both/team", "bob", "--edit").stdout
    assert run(*into, **theirs).returncode == 0
    loaded = run("load", "both/team/things", "--into", "got", "--json")
    assert contents(json.loads(loaded.stdout)["local"]) == contents(artifact.local)
    assert "everybody may view" in run("share", "both/team/things", "everybody").stdout
    assert run("share", "both/team", "bob", "--end").stdout == f"/{server.user}/both/team: yours\n"
    assert shared not in run("ls", "--server", **theirs).stdout
    assert run("load", f"/{server.user}/both/team/things", "--into", "theirs", **theirs).returncode == 0  # everybody
    assert run(*into, **theirs).returncode == 1
    assert run("share", "both/team", "nobody").returncode == 1
    assert run("share", "both/team", "bob", "--end", "--edit").returncode == 2


def test_origin_of_a_file_that_only_the_server_knows(configured: Path, server: Serving, tmp_path: Path) -> None:
    em.login(server.url, server.api_key)
    model = tmp_path / "found.bin"
    model.write_bytes(os.urandom(70_000))
    artifact = em.create_artifact("origin")
    artifact.add_file(model, "weights/")
    run_made = em.create_run(name="made-it")
    run_made.mark_output(artifact)
    run_made.finish()
    em.upload(run_made.local, folder="origins", make_folder=True)
    here = run("origin", str(model))
    assert here.returncode == 0, here.stderr
    assert "output of made-it_" in here.stdout
    assert "/origins/" not in here.stdout  # a run here is known: the server is not asked
    shutil.rmtree(".em")
    there = run("origin", str(model))
    assert there.returncode == 0, there.stderr
    assert f"/{server.user}/origins/origin:1: weights/found.bin\n    output of /{server.user}/origins/made-it\n" in (
        there.stdout
    )
    (found,) = json.loads(run("origin", "--json", str(model)).stdout)
    mark = {"side": "output", "run": f"/{server.user}/origins/made-it"}
    origin = {"artifact": f"/{server.user}/origins/origin:1", "paths": ["weights/found.bin"], "runs": [mark]}
    assert (found["artifacts"], found["server"], found["server_has_more"]) == ([], [origin], False)
    for arguments, environment in ((["--local"], {}), ([], {"EM_MODE": "offline"})):
        unasked = run("origin", str(model), *arguments, **environment)
        assert (unasked.returncode, unasked.stderr) == (1, "")
        assert unasked.stdout.endswith("  in no local artifact\n")
    model.write_bytes(b"another")
    nowhere = run("origin", str(model))
    assert nowhere.returncode == 1
    assert "in no local artifact, and in none on the server that you may see" in nowhere.stdout


def test_origin_goes_on_where_an_artifact_is_gone_and_asks_for_a_version_once(
    home: Path, proxy: Proxy, server: Serving, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    em.login(proxy.url, server.api_key)
    session = connected()
    files = [os.urandom(100) for _ in range(3)]
    digests = [_engine.digest(file).hex() for file in files]
    for made in (artifact_of("gone", *files), artifact_of("kept", *files)):
        made.upload(folder, make_folder=True)
    kept, gone = f"/{server.user}/{folder}/kept:1", f"/{server.user}/{folder}/gone:1"
    proxy.reset()
    for number, (digest, (found, has_more)) in enumerate(find_on_server(session, digests)):
        assert (digest, has_more) == (digests[number], False)
        assert [(one.artifact, one.paths) for one in found] == [
            (gone, [f"gone-{number}"]),
            (kept, [f"kept-{number}"]),
        ]
    assert len(proxy.requests) == 3 + 2 * 3  # who holds each, and version, manifest and lineage of both

    ask = artifacts.holders

    def holders_of_which_one_goes(*arguments: Any) -> tuple[list[tuple[str, int]], bool]:
        answer = ask(*arguments)
        if node := nodes.find(session, gone.removesuffix(":1")):
            session.request("DELETE", f"/nodes/{node.id}", "cannot delete")
        return answer

    monkeypatch.setattr(artifacts, "holders", holders_of_which_one_goes)
    for _, (found, _) in find_on_server(session, digests):
        assert [one.artifact for one in found] == [kept]


def test_origin_tells_what_the_server_said_before_it_failed(configured: Path, server: Serving) -> None:
    em.login(server.url, server.api_key)
    artifact_of("good", b"good").upload("failing", make_folder=True)
    artifact_of("bad", b"bad").upload("failing")
    shutil.rmtree(".em")

    def lie(path: str, body: bytes) -> bytes:
        return b"{}" if path.endswith(f"/objects/{_engine.digest(b'bad').hex()}/artifacts?limit=20") else body

    with lying(server.url, lie) as liar:
        assert run("login", "--host", liar, "--api-key-stdin", stdin=server.api_key).returncode == 0
        told = run("origin", "good-0", "bad-0")
    assert told.returncode == 1
    assert f"/{server.user}/failing/good:1: good-0\n" in told.stdout
    assert told.stdout.endswith("  in no local artifact\n")
    assert told.stderr.startswith("Warning: ")


def test_ls_lists_folders_and_artifacts_of_the_server(configured: Path, server: Serving) -> None:
    em.login(server.url, server.api_key)
    artifact = em.create_artifact("listed")
    Path("a.txt").write_text("a")
    artifact.add_file("a.txt")
    artifact.upload(folder="listing/below", make_folder=True)
    home, path = f"/{server.user}", f"/{server.user}/listing/below"
    assert f"Folder    {home}/listing\n" in run("ls", "--server").stdout
    assert json.loads(run("ls", "--server", "listing", "--json").stdout) == [{"kind": "Folder", "path": path}]
    assert run("ls", "--server", path).stdout == f"Artifact  {path}/listed\n"
    for name in (f"{path}/listed", "listing/below/listed:latest"):
        assert run("ls", "--server", name).stdout == "       1 B  a.txt\n"
    missing = run("ls", "--server", "listing/nowhere")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert f"there is nothing at {home}/listing/nowhere" in missing.stderr
    assert run("ls", f"{path}/listed").returncode == 1  # without --server nothing is fetched
    with pytest.raises(NotFoundError, match=r"is no run: Artifact \(hint: em.load_artifact loads it"):
        em.load_run("listing/below/listed")
    with pytest.raises(NotFoundError, match="is no run: Folder"):
        em.load_run("listing")


def test_folder_that_nobody_can_make_is_not_said_to_be_made_by_make_folder(home: Path, server: Serving) -> None:
    em.login(server.url, server.api_key)
    finished = em.create_run(name="x")
    finished.finish()
    for thing in (em.create_artifact("x"), finished):
        with pytest.raises(NotFoundError, match=r"no folder /nobody/x .*hint: it is in a tree where you may"):
            thing.upload(folder="/nobody/x", make_folder=True)

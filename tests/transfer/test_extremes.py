"""Clocks that are wrong, two hosts on one directory, many objects, long ones, and senders that died.

Sizes are small here; `EM_TEST_OBJECTS`, `EM_TEST_SPARSE_MIB`, `EM_TEST_KILLS` set them for a long run.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from harness import Serving
from lacking import lacks
from proxy import proxied
from t9k import em
from t9k.em import _engine
from trees import contents, make_tree

OBJECTS = int(os.environ.get("EM_TEST_OBJECTS", "1500"))
SPARSE_MIB = int(os.environ.get("EM_TEST_SPARSE_MIB", "200"))
KILLS = int(os.environ.get("EM_TEST_KILLS", "6"))
PATIENCE_S = 120.0
A_YEAR_S = 365 * 24 * 3600

SKEW = """
import os, time
_time, _time_ns, _by = time.time, time.time_ns, float(os.environ["SKEW_S"])
time.time = lambda: _time() + _by
time.time_ns = lambda: _time_ns() + int(_by * 1e9)
import datetime
class Skewed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)
datetime.datetime = Skewed
"""


def client(
    server: Serving, code: str, *, cwd: Path, before: tuple[str, ...] = (), **more: str
) -> subprocess.Popen[str]:
    """A process of its own that is logged in and runs code."""
    head = f"from t9k import em\nem.login({server.url!r}, {server.api_key!r})\n"
    command = [*before, sys.executable, "-c", head + textwrap.dedent(code)]
    environment = os.environ | {"EM_QUIET": "1", **more}
    return subprocess.Popen(command, cwd=cwd, env=environment, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=PATIENCE_S * 5)
    assert process.returncode == 0, errors


@pytest.mark.parametrize("skew_s", [-A_YEAR_S, A_YEAR_S], ids=["slow", "fast"])
def test_clock_that_is_a_year_wrong_changes_nothing(
    home: Path, server: Serving, monkeypatch: pytest.MonkeyPatch, skew_s: int
) -> None:
    (home / "skew").mkdir()
    (home / "skew" / "sitecustomize.py").write_text(SKEW)
    name = f"skewed{skew_s}"
    make_tree(home / "tree", seed=abs(skew_s))
    code = f"""
        import time
        run = em.create_run(name={name!r}, auto_upload=True)
        artifact = em.create_artifact("tree" + {name!r})
        artifact.add_dir("tree")
        run.mark_output(artifact)
        for step in range(50):
            run.log("train", {{"x": step}}, step)
        run.finish()
        artifact.upload("elsewhere", make_folder=True)
        """
    path = f"{home / 'skew'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    finish(client(server, code, cwd=home, PYTHONPATH=path, SKEW_S=str(skew_s)))
    (home.parent / "other").mkdir()
    monkeypatch.chdir(home.parent / "other")
    em.login(server.url, server.api_key)
    run = em.load_run(f"/{server.user}/default/{name}")
    assert [point["metrics"]["x"] for point in run.metrics["train"]] == list(range(50))
    assert run.status == "Complete"
    for folder in ("default", "elsewhere"):
        loaded = em.load_artifact(f"/{server.user}/{folder}/tree{name}")
        assert contents(loaded.local) == {f"tree/{path}": found for path, found in contents(home / "tree").items()}


def test_two_hosts_upload_one_artifact_of_a_shared_directory(home: Path, server: Serving, tmp_path: Path) -> None:
    namespace = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"')
    if subprocess.run([*namespace, "a", "true"], check=False, capture_output=True).returncode:
        lacks("a host name of its own takes root")
    size = 40 << 20
    (home / "large.bin").write_bytes(np.random.default_rng(7).bytes(size))
    artifact = em.create_artifact("shared")
    artifact.add_file("large.bin")
    for number in range(30):
        (home / f"{number}.txt").write_text(f"{number}")
        artifact.add_file(f"{number}.txt")
    code = f"em.load_artifact({artifact.local!r}).upload('hosts', make_folder=True, conflict_strategy='skip')"
    with proxied(server.url) as proxy:
        behind = Serving(proxy.url, server.user, server.api_key, server.process, server.data)
        hosts = [
            client(
                behind,
                code,
                cwd=home,
                before=(*namespace, f"host{number}"),
                XDG_CACHE_HOME=str(tmp_path / f"c{number}"),
            )
            for number in range(2)
        ]
        for process in hosts:
            finish(process)
        assert proxy.sent_bytes < 2.1 * size
    em.login(server.url, server.api_key)
    os.chdir(tmp_path)
    loaded = em.load_artifact("hosts/shared")
    assert contents(loaded.local) == contents(artifact.local)
    assert len(em.Artifact.at("hosts/shared").objects) == 31


def test_many_objects_take_few_requests(home: Path, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = home / "tree"
    for number in range(OBJECTS):
        path = tree / f"{number % 97}" / f"{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"object {number}\n" * (1 + number % 20))
    artifact = em.create_artifact("many")
    artifact.add_dir("tree")
    with proxied(server.url) as proxy:
        em.login(proxy.url, server.api_key)
        artifact.upload("many", make_folder=True)
        assert len(proxy.requests) < 15 + OBJECTS // 1000, proxy.requests
        (home.parent / "other").mkdir()
        monkeypatch.chdir(home.parent / "other")
        proxy.reset()
        loaded = em.load_artifact("many/many")
        assert len(proxy.requests) < 15 + OBJECTS // 1000, proxy.requests
    assert len(loaded.objects) == OBJECTS
    assert loaded.objects == artifact.objects
    assert contents(loaded.local) == contents(artifact.local)


def test_long_sparse_object_costs_next_to_nothing_on_the_way(
    home: Path, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(home / "sparse.bin", "wb") as file:
        file.truncate(SPARSE_MIB << 20)
        file.seek((SPARSE_MIB << 19) + 12345)
        file.write(b"something in the middle")
    digest = _engine.hash_file("sparse.bin")
    artifact = em.create_artifact("sparse")
    artifact.add_file("sparse.bin")
    with proxied(server.url) as proxy:
        em.login(proxy.url, server.api_key)
        artifact.upload("sparse", make_folder=True)
        assert proxy.sent_bytes < (1 << 20) + (SPARSE_MIB << 20) // 7_000  # 36 bytes for each chunk of 256 KiB
        (home.parent / "other").mkdir()
        monkeypatch.chdir(home.parent / "other")
        loaded = em.load_artifact("sparse/sparse")
        assert proxy.received_bytes < (1 << 20) + (SPARSE_MIB << 20) // 1000
    for local in (artifact.local, loaded.local):
        assert os.stat(f"{local}/sparse.bin").st_blocks * 512 < 4 << 20  # the holes are holes
    assert _engine.hash_file(str(Path(loaded.local, "sparse.bin"))) == digest
    shutil.rmtree(".em")


def test_senders_that_died_in_the_middle_hold_up_nobody_for_long(home: Path, server: Serving) -> None:
    rng = random.Random(5)
    (home / "large.bin").write_bytes(np.random.default_rng(9).bytes(60 << 20))
    artifact = em.create_artifact("dead")
    artifact.add_file("large.bin")
    code = f"em.load_artifact({artifact.local!r}).upload('dead', make_folder=True, conflict_strategy='new')"
    host, port = server.url.removeprefix("http://").split(":")
    silents: list[socket.socket] = []
    with contextlib.ExitStack() as open_ones:
        for _ in range(KILLS):
            process = client(server, code, cwd=home)
            time.sleep(rng.uniform(0.3, 1.5))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            for sent_bytes in (0, 1000, 300_000, 1 << 20):  # and those whose host is gone: their connection never ends
                head = f"PUT /api/v1/packs/{rng.randbytes(32).hex()} HTTP/1.1\r\nHost: x\r\n"
                head += f"Content-Length: {16 << 20}\r\nAuthorization: Bearer {server.api_key}\r\n\r\n"
                silent = open_ones.enter_context(socket.create_connection((host, int(port)), timeout=PATIENCE_S))
                silent.sendall(head.encode() + bytes(sent_bytes))
                silents.append(silent)
        em.login(server.url, server.api_key)
        began = time.monotonic()
        # One that was killed late has committed it.
        artifact.upload("dead", make_folder=True, conflict_strategy="replace")
        took_s = time.monotonic() - began
        for silent in silents:  # each is refused or cut off, and holds no memory of the server any more
            with contextlib.suppress(ConnectionError):
                answer = b""
                while part := silent.recv(4096):
                    answer += part
                assert answer == b"" or answer.startswith(b"HTTP/1.1 503 ")
    print(f"an upload took {took_s:.1f} s beside {4 * KILLS} silent senders")
    with em.Artifact.at("dead/dead").open("large.bin") as file:
        assert file.read() == (home / "large.bin").read_bytes()

"""Bad networks, killed processes, full disks: a transfer ends right or with a typed error, and the next one goes on.

`EM_TEST_ROUNDS` is the number of uploads and of loads through a faulty proxy, `EM_TEST_KILLS` how often a client is
killed while it uploads, and while it loads, and the server during both, `EM_TEST_RACES` how often two commit one name
with each strategy; `EM_TEST_SEED` gives others.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from harness import Serving, run_server
from proxy import NETWORKS, Faults, Proxy, proxied
from t9k import em
from t9k.em import _engine
from t9k.em.client import connection, nodes, runs
from t9k.em.errors import EmError, IntegrityError, StoreError, TransferError
from trees import contents, make_artifact, make_tree

ROUNDS = int(os.environ.get("EM_TEST_ROUNDS", "6"))
KILLS = int(os.environ.get("EM_TEST_KILLS", "3"))
KILLS_EACH = 3
PACKS_IN_FLIGHT = 4 * (16 << 20) + (1 << 20)
"""Bytes that may have to be sent again."""
RANGES_IN_FLIGHT = 4 * (8 << 20) + (1 << 20)
"""Bytes that may have to be received again."""
RACES = int(os.environ.get("EM_TEST_RACES", "1"))
SEED = int(os.environ.get("EM_TEST_SEED", "1"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t9k.em.client.session.FIRST_PAUSE_S", 0.01)


def go_to(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory.mkdir(exist_ok=True)
    monkeypatch.chdir(directory)
    return directory


def leftovers(home: Path) -> list[str]:
    """What an interrupted load left in the store or beside the artifacts, parts of objects excepted."""
    return [str(path) for path in (home / ".em").rglob(".tmp-*") if path.parent.name != "parts"]


def parts(home: Path) -> list[Path]:
    """Files of objects that a load has begun."""
    return list((home / ".em" / "store" / "parts").glob("*"))


def test_random_faults_end_right_or_with_a_typed_error(
    home: Path, proxy: Proxy, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(SEED)
    em.login(proxy.url, server.api_key)
    outcomes = {"right": 0, "refused": 0, "faulted": 0, "duplicated": 0}
    for number in range(ROUNDS):
        go_to(home, monkeypatch)
        shutil.rmtree(home / "tree", ignore_errors=True)
        artifact = make_artifact(
            make_tree(home / "tree", seed=rng.randrange(1 << 30), large_bytes=12 << 20), f"f{number}"
        )
        proxy.faults = Faults(
            cut=rng.choice((0, 0.002, 0.01)),
            corrupt=rng.choice((0, 0.002, 0.01)),
            delay=rng.choice((0, 0.05)),
            bytes_per_s=rng.choice((0, 0, 40 << 20)),
            duplicate=rng.choice((0, 0.1, 0.5)),
            random=random.Random(rng.random()),
        )
        try:
            artifact.upload("faults", make_folder=True, conflict_strategy="replace")
            is_up = True
        except EmError:
            is_up = False
            outcomes["refused"] += 1
        if not is_up:
            proxy.faults = Faults()
            artifact.upload("faults", make_folder=True, conflict_strategy="replace")
            proxy.faults = Faults(cut=0.01, duplicate=0.1, random=random.Random(rng.random()))
        there = go_to(home.parent / f"other{number}", monkeypatch)
        try:
            loaded = em.load_artifact(f"faults/f{number}")
        except EmError:
            outcomes["refused"] += 1
            assert not list((there / ".em" / "artifacts").glob("*/"))
            proxy.faults = Faults()
            loaded = em.load_artifact(f"faults/f{number}")
        assert contents(loaded.local) == contents(artifact.local)
        outcomes["right"] += 1
        proxy.faults = Faults()
        outcomes["faulted"] += proxy.faulted
        outcomes["duplicated"] += proxy.duplicated
        proxy.reset()
        shutil.rmtree(there)
    print(f"{ROUNDS} uploads and loads: {outcomes}")
    assert outcomes["right"] == ROUNDS


@pytest.mark.parametrize("name", NETWORKS)
def test_bad_network_takes_its_time_and_nothing_else(
    home: Path, proxy: Proxy, server: Serving, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    em.login(proxy.url, server.api_key)
    artifact = make_artifact(make_tree(home / "tree", seed=len(name), large_bytes=600_000), name)
    proxy.faults = NETWORKS[name]
    proxy.reset()
    artifact.upload("networks", make_folder=True)
    sent_bytes, requests = proxy.sent_bytes, [request.partition("?")[0] for request in proxy.requests]
    assert len(set(requests)) == len(requests) <= 6  # nothing was given up and asked again
    go_to(home.parent / "other", monkeypatch)
    loaded = em.load_artifact(f"networks/{name}")
    assert contents(loaded.local) == contents(artifact.local)
    assert sent_bytes < 1.01 * sum(len(data[0]) for data in contents(artifact.local).values() if data) + 10_000


def test_request_that_arrives_twice_counts_once(home: Path, proxy: Proxy, server: Serving) -> None:
    """Of the uploads of artifacts and runs, and of what changes these later."""
    em.login(proxy.url, server.api_key)
    session = connection.connected()
    proxy.faults = Faults(duplicate=1.0)
    for number in range(4):
        folder = f"twice{number}"
        made = make_artifact(make_tree(home / folder, seed=141 + number, large_bytes=1 << 20), "made")
        run = em.create_run(name="run")
        run.mark_output(made)
        for step in range(300):
            run.log("train", {"x": step}, step)
            if step == 200:
                run.upload(folder, make_folder=True)
        Path(run.local, "stdout.log").write_bytes(b"a line\n" * 100)
        run.finish()
        run.upload(folder)
        made.upload(folder, conflict_strategy="replace")
        time.sleep(0.2)  # the last ones are on their way
        there = nodes.find(session, f"/{server.user}/{folder}")
        assert there is not None
        assert sorted(node.path for node in nodes.children(session, there)) == [
            f"{there.path}/made",
            f"{there.path}/run",
        ]
        record = runs.find(session, f"{there.path}/run")
        assert record is not None
        assert (record["state"], record["log_bytes"]) == ("Complete", 700)
        assert runs.metric_counts(session, record["node"]["id"], "x") == {"train": 300}
        assert em.Artifact.at(f"{folder}/made").objects == made.objects
    assert proxy.duplicated > 40, proxy.requests


def test_flipped_bit_in_every_answer_is_an_integrity_error_with_nothing_on_disk(
    home: Path, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t9k.em.client import artifacts

    em.login(server.url, server.api_key)
    artifact = make_artifact(make_tree(home / "tree", seed=61, large_bytes=9 << 20), "flipped")
    artifact.upload("faults", make_folder=True)
    there = go_to(home.parent / "other", monkeypatch)
    get, flips = artifacts.pack_range, [0]

    def flip(*arguments: object) -> bytes:
        data = bytearray(get(*arguments))  # type: ignore[arg-type]
        flips[0] += 1
        data[len(data) * 2 // 3] ^= 0x10
        return bytes(data)

    monkeypatch.setattr(artifacts, "pack_range", flip)
    with pytest.raises(IntegrityError):
        em.load_artifact("faults/flipped")
    assert not list((there / ".em").glob("artifacts/*"))
    assert leftovers(there) == []
    for path in (there / ".em" / "store" / "objects").glob("*/*"):  # what was complete is right
        assert _engine.hash_file(str(path)) == path.parent.name + path.name
    files = {_engine.hash_file(str(path)): path for path in (home / "tree").rglob("*") if path.is_file()}
    assert parts(there)
    for path in parts(there):  # and so is what has come of others
        whole, found = (np.fromfile(one, np.uint8) for one in (files[path.name.split("-")[1]], path))
        assert ((found == whole) | (found == 0)).all()
    once = [True]

    def flip_once(*arguments: object) -> bytes:
        return flip(*arguments) if once and once.pop() else bytes(get(*arguments))  # type: ignore[arg-type]

    monkeypatch.setattr(artifacts, "pack_range", flip_once)
    assert contents(em.load_artifact("faults/flipped").local) == contents(artifact.local)


@pytest.mark.parametrize("which", ["table", "short", "zeros"])
def test_server_that_lies_about_chunks_is_an_integrity_error(
    home: Path, server: Serving, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    from t9k.em.client import artifacts

    em.login(server.url, server.api_key)
    (home / "one.bin").write_bytes(np.random.default_rng(71).bytes(3 << 20))
    (home / "two.bin").write_bytes(np.random.default_rng(72).bytes(3 << 20))
    artifact = em.create_artifact("lied")
    for name in ("one.bin", "two.bin"):
        artifact.add_file(name)
    artifact.upload("faults", make_folder=True, conflict_strategy="replace")
    there = go_to(home.parent / "other", monkeypatch)
    tables, read = artifacts.chunk_tables, artifacts.pack_range

    def wrong_tables(session: object, version: object, objects: object) -> object:
        found = tables(session, version, objects)  # type: ignore[arg-type]
        first, second = [(digest, size, list(blocks)) for digest, size, blocks in found]
        return [(first[0], first[1], second[2]), (second[0], second[1], first[2])]

    if which == "table":
        monkeypatch.setattr(artifacts, "chunk_tables", wrong_tables)
    elif which == "short":
        monkeypatch.setattr(artifacts, "pack_range", lambda *asked: read(*asked)[:-1])
    else:
        monkeypatch.setattr(artifacts, "pack_range", lambda *asked: bytes(len(read(*asked))))
    with pytest.raises(IntegrityError):
        em.load_artifact("faults/lied")
    assert not list((there / ".em").glob("artifacts/*"))
    assert leftovers(there) == []


CLIENT = """
import sys
from t9k import em
url, key, verb, what = sys.argv[1:]
em.login(url, key)
if verb == "upload":
    em.load_artifact(what).upload("killed", make_folder=True, conflict_strategy="skip")
else:
    em.load_artifact(what)
"""


def client(url: str, key: str, verb: str, what: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CLIENT, url, key, verb, what], stderr=subprocess.DEVNULL)


def is_killed_at(process: subprocess.Popen[bytes], passed: Callable[[], int], count: float) -> bool:
    """Kills a client once so many bytes have passed the proxy; answers whether it did not end before."""
    while process.poll() is None and passed() < count:
        time.sleep(0.002)
    process.kill()
    code = process.wait()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def test_killed_client_sends_at_most_the_packs_in_flight_again(home: Path, proxy: Proxy, server: Serving) -> None:
    rng = random.Random(SEED)
    size = 96 << 20
    proxy.faults = Faults(bytes_per_s=60 << 20)
    all_kills = number = 0
    em.login(server.url, server.api_key)
    while all_kills < KILLS:
        number, kills = number + 1, 0
        (home / "large.bin").write_bytes(np.random.default_rng(SEED + number).bytes(size))
        artifact = em.create_artifact(f"killed{number}")
        artifact.add_file("large.bin")
        proxy.reset()
        while True:
            at = proxy.sent_bytes + rng.uniform(0, 1.1 * size) if kills < KILLS_EACH else math.inf
            if not is_killed_at(
                client(proxy.url, server.api_key, "upload", artifact.local), lambda: proxy.sent_bytes, at
            ):
                break
            kills += 1
        assert proxy.sent_bytes < size * 1.01 + kills * PACKS_IN_FLIGHT
        puts = [request for request in proxy.requests if request.startswith("PUT")]
        assert len(puts) <= 6 + 1 + 4 * kills
        there = em.Artifact.at(f"killed/killed{number}")
        with there.open("large.bin") as file:
            assert file.read() == (home / "large.bin").read_bytes()
        all_kills += kills
        shutil.rmtree(home / ".em")
    print(f"{all_kills} kills of an upload in {number} rounds")


def test_killed_load_is_never_visible_and_goes_on(
    home: Path, proxy: Proxy, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(SEED)
    em.login(server.url, server.api_key)
    artifact = make_artifact(make_tree(home / "tree", seed=91, large_bytes=60 << 20, small=400), "to-load")
    for number in range(6):
        (home / f"part{number}.bin").write_bytes(np.random.default_rng(number).bytes(4 << 20))
        artifact.add_file(f"part{number}.bin")
    artifact.upload("killed", make_folder=True)
    size = 90 << 20
    proxy.faults = Faults(bytes_per_s=80 << 20)
    all_kills = number = 0
    while all_kills < KILLS:
        number, kills = number + 1, 0
        there = go_to(home.parent / f"other{number}", monkeypatch)
        proxy.reset()
        while True:
            at = proxy.received_bytes + rng.uniform(0, size) if kills < KILLS_EACH else math.inf
            process = client(proxy.url, server.api_key, "load", "killed/to-load")
            if not is_killed_at(process, lambda: proxy.received_bytes, at):
                break
            kills += 1
            visible = [path for path in (there / ".em").glob("artifacts/*") if not path.name.startswith(".")]
            assert all(contents(path) == contents(artifact.local) for path in visible)  # killed after its end
        (loaded,) = (path for path in (there / ".em").glob("artifacts/*") if not path.name.startswith("."))
        assert contents(loaded) == contents(artifact.local)
        assert proxy.received_bytes < size * 1.02 + kills * RANGES_IN_FLIGHT
        assert parts(there) == []
        all_kills += kills
        shutil.rmtree(there)
    print(f"{all_kills} kills of a load in {number} rounds")


def test_killed_server_is_waited_for_and_loses_nothing_acknowledged(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t9k.em.client.session.FIRST_PAUSE_S", 0.3)
    rng = random.Random(SEED)
    size, all_kills, number, refused = 96 << 20, 0, 0, 0
    with contextlib.ExitStack() as proxies, contextlib.ExitStack() as servers:
        server = servers.enter_context(run_server(tmp_path / "served"))
        port = server.url.rpartition(":")[2]
        proxy = proxies.enter_context(proxied(server.url, Faults(bytes_per_s=60 << 20)))
        em.login(proxy.url, server.api_key)
        connection.connected().attempts = 60  # it comes back late on a slow machine

        def kill() -> None:
            nonlocal server
            server.process.kill()
            servers.close()
            server = servers.enter_context(run_server(tmp_path / "served", None, "--port", port))

        def beside_kills(work: Callable[[], object], passed: Callable[[], int]) -> int:
            nonlocal refused
            kills = 0
            with ThreadPoolExecutor(1) as pool:
                pending = pool.submit(work)
                while kills < KILLS_EACH:
                    at = passed() + rng.uniform(0, size)
                    while not pending.done() and passed() < at:
                        time.sleep(0.002)
                    if pending.done():
                        break
                    kill()
                    kills += 1
                try:
                    pending.result()
                except TransferError:  # the one request that may not be repeated was in flight
                    refused += 1
                    work()
            return kills

        while all_kills < KILLS:
            number += 1
            (home / "large.bin").write_bytes(np.random.default_rng(SEED + number).bytes(size))
            artifact = em.create_artifact(f"survivor{number}")
            artifact.add_file("large.bin")
            proxy.reset()
            upload = partial(artifact.upload, "killed", make_folder=True, conflict_strategy="skip")
            kills = beside_kills(upload, lambda: proxy.sent_bytes)
            assert proxy.sent_bytes < size * 1.01 + kills * PACKS_IN_FLIGHT
            kill()
            go_to(home.parent / "other", monkeypatch)
            load = partial(em.load_artifact, f"killed/survivor{number}")
            all_kills += kills + 1 + beside_kills(load, lambda: proxy.received_bytes)
            assert contents(load().local) == contents(artifact.local)
            go_to(home, monkeypatch)
            shutil.rmtree(home / ".em")
            shutil.rmtree(home.parent / "other")
    print(f"{all_kills} kills of the server in {number} rounds, {refused} times with an error before it was right")


RACER = """
import json, sys, time
from t9k import em
from t9k.em.errors import EmError
url, key, local, folder, strategy, start_at = sys.argv[1:]
em.login(url, key)
artifact = em.load_artifact(local)
before = len(artifact.remote)
time.sleep(max(0, float(start_at) - time.time()))
try:
    artifact.upload(folder, make_folder=True, conflict_strategy=strategy)
    print(json.dumps([line["path"] for line in artifact.remote[before:]]))
except EmError as error:
    print(json.dumps(error.kind))
"""


def test_two_clients_of_one_name_end_as_one_after_the_other(home: Path, server: Serving) -> None:
    em.login(server.url, server.api_key)
    made = [make_artifact(make_tree(home / f"t{seed}", seed=seed), "same") for seed in (101, 102)]
    for number in range(4 * RACES):
        strategy = ("skip", "error", "new", "replace")[number % 4]
        folder = f"race-{strategy}-{number}"
        start_at = str(time.time() + 0.7)  # both have started by then
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", RACER, server.url, server.api_key, one.local, folder, strategy, start_at],
                stdout=subprocess.PIPE,
            )
            for one in made
        ]
        outcomes = [json.loads(racer.communicate(timeout=300)[0]) for racer in racers]
        taken = f"/{server.user}/{folder}/same"
        other = [[f"/{server.user}/{folder}/{one.alternative_name}"] for one in made]
        serial = {
            "skip": [[[taken], []], [[], [taken]]],
            "error": [[[taken], "conflict"], ["conflict", [taken]]],
            "new": [[[taken], other[1]], [other[0], [taken]]],
            "replace": [[[taken], [taken]]],
        }
        assert outcomes in serial[strategy], (strategy, outcomes)
        found = em.Artifact.at(taken).objects
        assert found in [one.objects for one in made]


def test_file_of_the_store_that_is_replaced_during_the_upload_is_caught(
    home: Path, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t9k.em.client import artifacts

    em.login(server.url, server.api_key)
    artifact = make_artifact(make_tree(home / "tree", seed=111, large_bytes=40 << 20), "replaced")
    digest = next(entry["digest"] for entry in artifact.objects if entry["path"] == "large.bin")
    stored = home / ".em" / "store" / "objects" / digest[:2] / digest[2:]
    ask = artifacts.missing

    def replace(*asked: object, claim: bool) -> object:
        answer = ask(*asked, claim=claim)  # type: ignore[arg-type]
        other = stored.with_name("other")
        other.write_bytes(bytes(40 << 20))
        os.replace(other, stored)
        return answer

    monkeypatch.setattr(artifacts, "missing", replace)
    with pytest.raises((IntegrityError, StoreError, EmError), match=r"large\.bin"):
        artifact.upload("faults", make_folder=True)
    monkeypatch.setattr(artifacts, "missing", ask)
    assert connection.connected()  # and nothing is there under the name
    with pytest.raises(EmError):
        em.Artifact.at("faults/replaced")


def limited(code: str, home: Path, file_bytes: int | None = None) -> dict[str, object]:
    """Runs code in a process of its own, with no file longer than that; its last line of output is JSON."""
    limit = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({file_bytes}, {file_bytes}))" if file_bytes else ""
    script = (
        f"import json, resource, signal\nfrom t9k import em\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n{limit}\n"
    )
    script += textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], cwd=home, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_full_disk_while_loading_is_a_store_error_and_leaves_nothing_half(
    home: Path, server: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    em.login(server.url, server.api_key)
    artifact = make_artifact(make_tree(home / "tree", seed=121, large_bytes=30 << 20), "no-room")
    artifact.upload("faults", make_folder=True)
    there = go_to(home.parent / "other", monkeypatch)
    code = f"""
    em.login({server.url!r}, {server.api_key!r})
    try:
        em.load_artifact("faults/no-room")
    except em.errors.StoreError as error:
        print(json.dumps({{"error": str(error)}}))
    """
    found = limited("import t9k.em.errors\n" + textwrap.dedent(code), there, 10 << 20)
    assert "write" in str(found["error"]) or "File too large" in str(found["error"])
    assert not [path for path in (there / ".em").glob("artifacts/*") if not path.name.startswith(".")]
    assert leftovers(there) == []
    assert parts(there) == []
    assert contents(em.load_artifact("faults/no-room").local) == contents(artifact.local)


def test_memory_of_upload_and_load_is_bounded(home: Path, server: Serving) -> None:
    """256 MiB above the import, for an artifact of 600 MiB and 3,000 small files."""
    tree = home / "tree"
    make_tree(tree, seed=131, large_bytes=1 << 20, small=3000)
    rng = np.random.default_rng(131)
    for number in range(3):
        (tree / f"w{number}.bin").write_bytes(rng.bytes(200 << 20))
    em.login(server.url, server.api_key)
    artifact = make_artifact(tree, "memory")
    # Not ru_maxrss: a process inherits that of the one it was forked from.
    peak = "int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    for verb in (
        f"em.load_artifact({artifact.local!r}).upload('faults', make_folder=True)",
        "em.load_artifact('faults/memory')",
    ):
        there = home.parent / "load" if "faults/memory" in verb else home
        there.mkdir(exist_ok=True)
        code = f"""
        import requests
        em.Artifact
        em.login({server.url!r}, {server.api_key!r})
        before = {peak}
        {verb}
        print(json.dumps({{"above_kib": {peak} - before}}))
        """
        found = limited(code, there)
        assert 0 < int(str(found["above_kib"])) < 256 << 10, (verb, found)

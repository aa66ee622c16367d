"""Artifacts to a server and back, counted."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import Serving
from proxy import Proxy
from t9k import em
from t9k.em.client import connection
from t9k.em.client.session import Session, _Key
from t9k.em.errors import AuthError, ConflictError, IntegrityError, InvalidInputError, NotFoundError, TransferError
from trees import contents, make_artifact, make_tree

Moving = Callable[[str], Path]


@pytest.fixture
def move(logged_in: Path, monkeypatch: pytest.MonkeyPatch) -> Moving:
    """Goes to another, empty home directory: another machine."""

    def go(name: str) -> Path:
        there = logged_in.parent / name
        there.mkdir()
        monkeypatch.chdir(there)
        return there

    return go


def upload(artifact: em.Artifact, folder: str, strategy: str = "new") -> str:
    artifact.upload(folder, make_folder=True, conflict_strategy=strategy)
    return artifact.remote[-1]["path"]


def wait_until_known(server: Serving, path: str) -> None:
    """Until the server has hashed the objects of an artifact itself."""
    from t9k.em.client import artifacts

    for _ in range(400):
        state = artifacts.resolve(connection.connected(), path).state
        if state != "checking":
            assert state == "complete"
            return
        time.sleep(0.05)
    raise AssertionError("the server does not hash what it has")


def test_upload_and_load_gives_the_same_bytes_and_metadata(
    logged_in: Path, move: Moving, folder: str, server: Serving
) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree"))
    artifact.add_reference("https://example.org/data.tar", "data.tar")
    path = upload(artifact, folder)
    assert path == f"/{server.user}/{folder}/things"
    (line,) = artifact.remote
    assert line["action"] == "upload"
    assert line["host"] == connection.connected().url
    assert em.load_artifact(artifact.local).remote == [line]

    move("other")
    for name in (
        f"{folder}/things",
        path,
        f"{path}:latest",
        f"{path}@{line['digest']}",
        f"{path}@{line['digest'][:16]}",
    ):
        loaded = em.load_artifact(name)
        assert contents(loaded.local) == contents(artifact.local)
        assert os.path.basename(loaded.local) == artifact.alternative_name
    assert loaded.objects == artifact.objects
    for field in ("name", "labels", "description", "created_timestamp", "alternative_name"):
        assert getattr(loaded, field) == getattr(artifact, field)
    assert [line["action"] for line in loaded.remote] == ["download"]
    assert not os.access(os.path.join(loaded.local, "empty"), os.W_OK) or os.geteuid() == 0


def test_unchanged_upload_sends_next_to_nothing(logged_in: Path, folder: str, proxy: Proxy, server: Serving) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree", small=200))
    wait_until_known(server, upload(artifact, folder))
    proxy.reset()
    objects = len({entry.get("digest") for entry in artifact.objects if entry["type"] == "file"})
    upload(artifact, folder)
    assert len(proxy.requests) <= 3, proxy.requests
    assert proxy.sent_bytes <= 1000 + 40 * objects
    assert artifact.remote[-1]["path"].endswith(f"/{artifact.alternative_name}")


def test_skip_of_a_taken_name_is_one_request(logged_in: Path, folder: str, proxy: Proxy) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree"))
    upload(artifact, folder)
    proxy.reset()
    artifact.upload(folder, conflict_strategy="skip")
    assert len(proxy.requests) == 1
    assert len(artifact.remote) == 1


def test_conflict_strategies_are_those_of_the_reference(
    logged_in: Path, folder: str, server: Serving, move: Moving
) -> None:
    first = make_artifact(make_tree(logged_in / "a", seed=1))
    second = make_artifact(make_tree(logged_in / "b", seed=2))
    taken = upload(first, folder)
    with pytest.raises(ConflictError, match="is there already"):
        second.upload(folder, conflict_strategy="error")
    second.upload(folder, conflict_strategy="skip")
    assert second.remote == []
    assert upload(second, folder, "new") == f"/{server.user}/{folder}/{second.alternative_name}"
    with pytest.raises(ConflictError):
        second.upload(folder, conflict_strategy="new")
    assert upload(second, folder, "replace") == taken
    move("other")
    assert contents(em.load_artifact(taken).local) == contents(second.local)
    with pytest.raises(InvalidInputError, match="overwrite"):
        second.upload(folder, conflict_strategy="overwrite")


def test_artifact_of_too_many_files_is_refused_before_a_byte_is_sent(
    logged_in: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t9k.em.transfer.upload.MAX_MANIFEST_ENTRIES", 2)
    artifact = make_artifact(make_tree(logged_in / "tree"))
    with pytest.raises(InvalidInputError, match="at most 2"):
        upload(artifact, folder)


def test_folder_that_is_missing_is_made_only_when_asked(logged_in: Path, folder: str, server: Serving) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree"))
    with pytest.raises(NotFoundError):
        artifact.upload(f"{folder}/deep")
    artifact.upload(f"/{server.user}/{folder}/deep/er", make_folder=True)
    artifact.upload(f"{folder}/deep/er/", conflict_strategy="new")
    assert [line["path"].rpartition("/")[0] for line in artifact.remote] == [f"/{server.user}/{folder}/deep/er"] * 2
    with pytest.raises(NotFoundError):  # the server does not tell that it is somebody's
        artifact.upload("/somebody-else/folder", make_folder=True)


def test_load_fetches_only_chunks_that_the_store_lacks(
    logged_in: Path, folder: str, proxy: Proxy, move: Moving
) -> None:
    data = bytearray(np.random.default_rng(3).bytes(8 << 20))
    (logged_in / "v1.bin").write_bytes(data)
    data[4_000_000:4_000_010] = b"0123456789"
    (logged_in / "v2.bin").write_bytes(data)
    paths = []
    for name in ("v1", "v2"):
        artifact = em.create_artifact(name)
        artifact.add_file(f"{name}.bin")
        proxy.reset()
        paths.append(upload(artifact, folder))
    assert proxy.sent_bytes < 1 << 20
    move("other")
    em.load_artifact(paths[0])
    proxy.reset()
    loaded = em.load_artifact(paths[1])
    assert proxy.received_bytes < 1 << 20
    assert Path(loaded.local, "v2.bin").read_bytes() == data
    shutil.rmtree(loaded.local)
    proxy.reset()
    em.load_artifact(paths[1])
    assert proxy.received_bytes < 10_000
    assert len(proxy.requests) == 2


def test_load_into_a_directory_of_another_artifact_takes_a_new_one(logged_in: Path, folder: str, move: Moving) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree"))
    path = upload(artifact, folder)
    move("other")
    first = em.load_artifact(path)
    first.add_reference("https://example.org/more", "more")
    second = em.load_artifact(path)
    assert second.local != first.local
    assert contents(second.local) == contents(artifact.local)
    assert em.load_artifact(path).local == second.local


def test_load_of_a_path_that_is_nowhere_is_a_runtime_error(logged_in: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        em.load_artifact("default/nothing")
    assert isinstance(caught.value, NotFoundError)


def test_load_without_a_server_is_not_found(logged_in: Path) -> None:
    em.logout()
    with pytest.raises(NotFoundError, match="no artifact at"):
        em.load_artifact("default/nothing")


def test_load_when_the_server_is_away_is_a_transfer_error(
    logged_in: Path, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t9k.em.client.session.FIRST_PAUSE_S", 0.001)
    proxy.close()
    with pytest.raises(TransferError, match="no answer"):
        em.load_artifact("default/nothing")


def test_load_of_what_one_may_not_see_says_that_there_is_nothing(
    logged_in: Path, folder: str, server: Serving, move: Moving
) -> None:
    """The server tells nobody that something is there; a key that it does not take is another error."""
    artifact = make_artifact(make_tree(logged_in / "tree"))
    path = upload(artifact, folder)
    move("other")
    em.login(server.url, add_user(server, "eve"))
    for load in (em.load_artifact, em.load_run, em.Artifact.at):
        with pytest.raises(NotFoundError) as caught:
            load(path)
        assert isinstance(caught.value, RuntimeError)
    connection.connected()._auth = _Key("em_pat_" + "0" * 33)
    connection.connected().close()
    for load in (em.load_artifact, em.load_run, em.Artifact.at):
        with pytest.raises(AuthError, match="no valid API key"):
            load(path)
    assert not list(Path(".em").glob("*/*"))


def add_user(server: Serving, name: str) -> str:
    """Answers the new user's key."""
    command = [sys.executable, "-m", "t9k.aistore", "--data", str(server.data), "users", "add", name, "--key", "--json"]
    (user,) = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return str(user["api_key"])


def test_local_directory_is_looked_for_before_the_server(logged_in: Path, folder: str, proxy: Proxy) -> None:
    there = make_artifact(make_tree(logged_in / "there", seed=1), "there")
    upload(there, folder)
    here = make_artifact(make_tree(logged_in / "here", seed=2), "here")
    Path(folder).mkdir()
    shutil.move(here.local, f"{folder}/there")
    proxy.reset()
    assert em.load_artifact(f"{folder}/there").name == "here"
    assert proxy.requests == []
    shutil.rmtree(folder)
    assert em.load_artifact(f"{folder}/there").name == "there"


def test_damaged_object_is_caught_while_packing_and_named(logged_in: Path, folder: str) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree", seed=10))
    digest = next(entry["digest"] for entry in artifact.objects if entry["path"] == "large.bin")
    stored = Path(".em/store/objects", digest[:2], digest[2:])
    times = stored.stat()
    stored.chmod(0o644)
    with stored.open("r+b") as file:
        file.seek(1 << 20)
        file.write(b"damage")
    stored.chmod(0o444)
    os.utime(stored, ns=(times.st_atime_ns, times.st_mtime_ns))  # nothing but the bytes tells
    with pytest.raises(IntegrityError, match=r"'large\.bin'"):
        upload(artifact, folder)
    artifact.add_file(str(logged_in / "tree" / "large.bin"))
    upload(artifact, folder)


def test_object_that_is_gone_from_the_store_is_named(logged_in: Path, folder: str) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree", seed=11))
    digest = next(entry["digest"] for entry in artifact.objects if entry["path"] == "large.bin")
    Path(".em/store/objects", digest[:2], digest[2:]).unlink()
    with pytest.raises((NotFoundError, IntegrityError, OSError), match=r"'large\.bin'"):
        upload(artifact, folder)


def test_server_that_lost_a_pack_is_sent_its_chunks_again(
    logged_in: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`missing` said that a chunk was there, and the commit finds it gone."""
    from t9k.em.client import artifacts

    artifact = make_artifact(make_tree(logged_in / "tree", seed=77))
    ask, asked = artifacts.missing, []

    def lie(session: Session, chunks: list[bytes], lease: str | None, *, claim: bool) -> artifacts.Missing:
        found = ask(session, chunks, lease, claim=claim)
        asked.append(len(found.absent))
        return dataclasses.replace(found, absent=found.absent[1:]) if len(asked) == 1 else found

    monkeypatch.setattr(artifacts, "missing", lie)
    path = upload(artifact, folder)
    assert len(asked) == 2
    assert asked[1] == 1
    assert em.Artifact.at(path).objects == artifact.objects


def test_expired_key_in_the_middle_is_an_auth_error_and_the_next_call_goes_on(
    logged_in: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t9k.em.client import artifacts

    artifact = make_artifact(make_tree(logged_in / "tree", seed=5, large_bytes=80 << 20))
    session, put, sent = connection.connected(), artifacts.put_pack, []
    good = session._auth

    def expire(session: object, digest: bytes, pack: bytes, *rest: object) -> str:
        held = put(session, digest, pack, *rest)  # type: ignore[arg-type]
        sent.append(len(pack))
        session._auth = _Key("em_pat_" + "0" * 33)  # type: ignore[attr-defined]
        session.close()  # type: ignore[attr-defined]
        return held

    monkeypatch.setattr(artifacts, "put_pack", expire)
    with pytest.raises(AuthError):
        upload(artifact, folder)
    assert 1 <= len(sent) <= 4
    session._auth = good
    session.close()

    def count(session: object, digest: bytes, pack: bytes, *rest: object) -> str:
        held = put(session, digest, pack, *rest)  # type: ignore[arg-type]
        sent.append(len(pack))
        return held

    monkeypatch.setattr(artifacts, "put_pack", count)
    upload(artifact, folder)
    assert 80 << 20 < sum(sent) < 81 << 20  # nothing twice


def test_lease_that_has_ended_between_two_packs_is_replaced(
    logged_in: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from t9k.em.client import artifacts

    artifact, put, asked = make_artifact(make_tree(logged_in / "tree", seed=6)), artifacts.put_pack, []

    def put_after_a_pause(session: object, digest: bytes, pack: bytes, lease: str | None, passed: object) -> str:
        asked.append(lease)
        if lease is not None:
            lease = "0" * 20  # that of the answer has ended: nobody knows it any more
        return put(session, digest, pack, lease, passed)  # type: ignore[arg-type]

    monkeypatch.setattr(artifacts, "put_pack", put_after_a_pause)
    path = upload(artifact, folder)
    assert None in asked
    assert em.Artifact.at(path).objects == artifact.objects


def test_skip_takes_no_folder_for_the_artifact(logged_in: Path, folder: str) -> None:
    artifact = make_artifact(make_tree(logged_in / "tree"), "taken")
    upload(make_artifact(logged_in / "tree", "below"), f"{folder}/taken")
    with pytest.raises(ConflictError, match="is a Folder"):
        artifact.upload(folder=folder, conflict_strategy="skip")


@pytest.mark.parametrize("name", ["../../escaped", "/tmp/escaped", ".", "a" * 300, "new\nline", 7, None])
def test_names_of_a_hostile_server_lead_to_no_other_directory(
    logged_in: Path, folder: str, move: Moving, monkeypatch: pytest.MonkeyPatch, name: object
) -> None:
    from t9k.em.client import artifacts

    path = upload(make_artifact(make_tree(logged_in / "tree")), "hostile")
    version = artifacts.resolve(connection.connected(), path)
    lie = dataclasses.replace(version, metadata={**version.metadata, "alternative_name": name})
    monkeypatch.setattr(artifacts, "resolve", lambda *_: lie)
    there = move("other")
    try:
        loaded = em.load_artifact(path)
    except InvalidInputError:
        assert not isinstance(name, str)
        return
    assert Path(loaded.local).parent == there / ".em" / "artifacts"
    assert not (there.parent / "escaped").exists()


def test_metadata_file_of_a_loaded_artifact_is_plain_json(logged_in: Path, folder: str, move: Moving) -> None:
    path = upload(make_artifact(make_tree(logged_in / "tree")), folder)
    move("other")
    loaded = em.load_artifact(path)
    document = json.loads(Path(loaded.local, ".artifact", "metadata.json").read_text())
    assert document["remote"] == loaded.remote

"""Parts of artifacts: some files downloaded, ranges read, fsspec, references."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import os
import random
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import safetensors.numpy
from harness import Serving
from proxy import Proxy
from t9k import em
from t9k.em import _engine
from t9k.em.client import artifacts
from t9k.em.client.artifacts import Place
from t9k.em.errors import (
    ConflictError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    TransferError,
)
from trees import contents, make_artifact, make_tree

FOLDER = "partial"


@pytest.fixture
def uploaded(home: Path, proxy: Proxy, server: Serving, monkeypatch: pytest.MonkeyPatch) -> em.Artifact:
    """An artifact on the server; the client has moved to an empty home directory."""
    em.login(proxy.url, server.api_key)
    tree = make_tree(home / "tree", seed=21, large_bytes=20 << 20)
    weights = {"a": np.arange(1_000_000, dtype="f4"), "b": np.ones((30, 7), "f8")}
    safetensors.numpy.save_file(weights, tree / "model.safetensors")
    artifact = make_artifact(tree, "parts")
    artifact.upload(FOLDER, make_folder=True)
    monkeypatch.chdir(tree.parent.parent)
    (home.parent / "other").mkdir()
    monkeypatch.chdir(home.parent / "other")
    proxy.reset()
    return artifact


@pytest.fixture
def remote(uploaded: em.Artifact) -> em.Artifact:
    return em.Artifact.at(uploaded.remote[-1]["path"])


def test_artifact_at_lists_objects_without_fetching_any(uploaded: em.Artifact, proxy: Proxy) -> None:
    remote = em.Artifact.at(uploaded.remote[-1]["path"])
    assert remote.objects == uploaded.objects
    assert remote.name == uploaded.name
    assert len(proxy.requests) == 2
    assert not Path(".em").exists()
    with pytest.raises(InvalidInputError, match="no local directory"):
        remote.add_file("x")


def test_download_gets_the_chosen_files_only(uploaded: em.Artifact, remote: em.Artifact, proxy: Proxy) -> None:
    proxy.reset()
    written = remote.download("some", paths=["d0", "run.sh"])
    assert set(contents("some")) == {
        name for name in contents(uploaded.local) if name.startswith("d0") or name == "run.sh"
    }
    assert contents("some").items() <= contents(uploaded.local).items()
    assert written == sorted(os.path.join("some", name) for name in contents("some"))
    assert proxy.received_bytes < 1 << 20
    assert remote.download("more", glob="*.safetensors") == [os.path.join("more", "model.safetensors")]
    proxy.reset()
    remote.download("some", paths=["d0"])  # is there
    assert proxy.requests == []
    assert all(name.startswith("./d1") for name in remote.download(glob="d1/*"))


def test_download_that_is_in_the_way_of_a_file_writes_nothing(remote: em.Artifact) -> None:
    Path("some").mkdir()
    Path("some/run.sh").write_text("mine")
    with pytest.raises(ConflictError, match=r"run\.sh"):
        remote.download("some", paths=["d0", "run.sh"])
    assert [path.name for path in Path("some").iterdir()] == ["run.sh"]
    assert Path("some/run.sh").read_text() == "mine"


def test_download_follows_no_symbolic_link_out_of_the_directory(remote: em.Artifact) -> None:
    Path("outside").mkdir()
    Path("some").mkdir()
    Path("some/d0").symlink_to("../outside")
    with pytest.raises((ConflictError, InvalidInputError, OSError)):
        remote.download("some", paths=["d0"])
    assert list(Path("outside").iterdir()) == []


def test_download_of_what_is_not_there_is_not_found(remote: em.Artifact) -> None:
    for arguments in ({"paths": ["d9"]}, {"glob": "*.nothing"}, {"paths": ["d0"], "glob": "*.bin"}):
        with pytest.raises(NotFoundError):
            remote.download("some", **arguments)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        remote.open("d0")
    with pytest.raises(NotFoundError):
        em.Artifact.at("partial/nothing")


def test_open_reads_as_the_file_itself_does(uploaded: em.Artifact, remote: em.Artifact) -> None:
    rng = random.Random(4)
    for name in ("large.bin", "d0/0.txt", "empty", "model.safetensors"):
        with remote.open(name) as mine, Path(uploaded.local, name).open("rb") as theirs:
            size = os.path.getsize(theirs.name)
            assert mine.seekable()
            assert mine.readable()
            for _ in range(60):
                whence = rng.choice((os.SEEK_SET, os.SEEK_END))
                offset = rng.randrange(size + 10) if whence == os.SEEK_SET else -rng.randrange(size + 1)
                length = rng.choice((0, 1, 100, 300_000, -1)) if rng.random() < 0.9 else 5_000_000
                assert mine.seek(offset, whence) == theirs.seek(offset, whence)
                assert mine.read(length) == theirs.read(length)
                assert mine.tell() == theirs.tell()
            with pytest.raises((ValueError, OSError)):
                mine.seek(-1)


def test_open_fetches_little_more_than_is_read(remote: em.Artifact, proxy: Proxy) -> None:
    proxy.reset()
    with remote.open("large.bin") as file:
        file.seek(-8, os.SEEK_END)
        file.read()
        file.seek(5 << 20)
        file.read(100)
    assert proxy.received_bytes < 2 << 20
    assert len(proxy.requests) <= 6


def test_open_reads_ahead_and_holds_a_bounded_cache(
    uploaded: em.Artifact, remote: em.Artifact, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t9k.em.transfer.partial.CACHE_BYTES", 6 << 20)
    proxy.reset()
    with remote.open("large.bin") as file:
        digest = hashlib.sha256(file.read()).digest()
        raw = file.raw  # type: ignore[attr-defined]
        assert raw._cached_bytes <= 6 << 20
        assert raw._cached_bytes == sum(map(len, raw._cache.values()))
    assert digest == hashlib.sha256(Path(uploaded.local, "large.bin").read_bytes()).digest()
    assert len(proxy.requests) < 20


def test_open_of_a_file_that_the_store_has_asks_nobody(
    uploaded: em.Artifact, remote: em.Artifact, proxy: Proxy
) -> None:
    remote.download("some", paths=["large.bin"])
    proxy.reset()
    with remote.open("large.bin") as file:
        assert file.read() == Path(uploaded.local, "large.bin").read_bytes()
    assert proxy.requests == []


def test_open_of_a_local_artifact_is_its_file(uploaded: em.Artifact) -> None:
    with uploaded.open("run.sh") as file:
        assert file.read() == b"#!/bin/sh\n"
    with pytest.raises(NotFoundError):
        uploaded.open("d0")


def test_open_of_wrong_bytes_is_an_integrity_error(remote: em.Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    from t9k.em.client import artifacts

    get, calls = artifacts.pack_range, []

    def flip(*arguments: object) -> bytes:
        data = bytearray(get(*arguments))  # type: ignore[arg-type]
        calls.append(len(data))
        if len(calls) in bad:
            data[len(data) // 2] ^= 1
        return bytes(data)

    monkeypatch.setattr(artifacts, "pack_range", flip)
    bad = {1}
    with remote.open("large.bin") as file:
        assert len(file.read(10)) == 10  # the second answer was right
    assert len(calls) == 2
    calls.clear()
    bad = {1, 2}
    with remote.open("large.bin") as file, pytest.raises(IntegrityError):
        file.read(10)


@pytest.fixture
def em_protocol() -> None:
    """As an installed package has it; the environment may be of an older one."""
    points = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["entry-points"]
    fsspec.register_implementation("em", points["fsspec.specs"]["em"], clobber=True)


@pytest.mark.usefixtures("em_protocol")
def test_fsspec_lists_and_reads(uploaded: em.Artifact) -> None:
    fs = fsspec.filesystem("em", skip_instance_cache=True)
    path = uploaded.remote[-1]["path"]
    names = {name.rpartition("/")[2] for name in fs.ls(f"em://{path}", detail=False)}
    assert names == {"d0", "d1", "d2", "empty", "nothing", "run.sh", "large.bin", "model.safetensors"}
    assert fs.info(f"em://{FOLDER}/parts/large.bin")["size"] == 20 << 20
    assert fs.isdir(f"em://{FOLDER}")
    assert fs.isdir(f"em://{FOLDER}/parts:latest/d0")
    assert not fs.exists(f"em://{FOLDER}/parts/d0/none")
    assert f"{FOLDER}/parts" in fs.ls(f"em://{FOLDER}", detail=False)
    assert path in fs.ls(f"em:///admin/{FOLDER}", detail=False)
    assert sorted(fs.glob(f"em://{path}/d1/*.txt")) == sorted(
        f"{path}/{name}" for name in contents(uploaded.local) if name.startswith("d1/")
    )
    with fsspec.open(f"em://{FOLDER}/parts@{uploaded.remote[-1]['digest']}/run.sh") as file:
        assert file.read() == b"#!/bin/sh\n"
    assert (
        fs.cat_file(f"em://{path}/large.bin", 1 << 20, (1 << 20) + 5)
        == Path(uploaded.local, "large.bin").read_bytes()[1 << 20 : (1 << 20) + 5]
    )
    with pytest.raises(NotImplementedError):
        fs.open(f"em://{path}/new", "wb")
    with pytest.raises(FileNotFoundError):
        fs.open(f"em://{path}/none")
    with pytest.raises(FileNotFoundError):
        fs.ls(f"em://{FOLDER}/nothing-here")


@pytest.mark.usefixtures("em_protocol")
def test_fsspec_lets_libraries_read_from_the_server(uploaded: em.Artifact) -> None:
    with fsspec.open(f"em://{FOLDER}/parts/model.safetensors") as file:
        loaded = safetensors.numpy.load(file.read())
    assert np.array_equal(loaded["a"], np.arange(1_000_000, dtype="f4"))


class _Files(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = self.server.files.get(self.path)  # type: ignore[attr-defined]
        self.server.seen.append(dict(self.headers))  # type: ignore[attr-defined]
        self.send_response(200 if body is not None else 404)
        cut_off = self.path == "/cut-off"
        self.send_header("Content-Length", str(len(body or b"") + cut_off))
        self.send_header("ETag", '"v2"')
        self.end_headers()
        try:
            self.wfile.write(body or b"")
        except OSError:
            self.server.seen.append({"left": self.path})  # type: ignore[attr-defined]

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web() -> Iterator[http.server.ThreadingHTTPServer]:
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Files)
    files = {"/data.tar": b"the data", "/cut-off": b"the dat", "/long": bytes(64 << 20)}
    listening.files = files  # type: ignore[attr-defined]
    listening.seen = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield listening
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_references_are_fetched_by_an_explicit_call_only(
    home: Path, server: Serving, web: http.server.ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    em.login(server.url, server.api_key)
    (home / "local file.txt").write_bytes(b"local")
    url = f"http://127.0.0.1:{web.server_port}"
    artifact = em.create_artifact("references")
    artifact.add_reference(f"{url}/data.tar", "http/data.tar")
    artifact.add_reference(f"{url}/gone", "gone")
    artifact.add_reference((home / "local file.txt").as_uri(), "file.txt")
    artifact.add_reference("memory://here/it.is", "other")
    artifact.add_reference("no-such-scheme://x", "unknown")
    artifact.upload(FOLDER, make_folder=True)
    (home.parent / "elsewhere").mkdir()
    monkeypatch.chdir(home.parent / "elsewhere")
    loaded = em.load_artifact(f"{FOLDER}/references")
    assert loaded.objects == artifact.objects
    assert web.seen == []  # type: ignore[attr-defined]
    fsspec.filesystem("memory").pipe_file("/here/it.is", b"in memory")
    written = loaded.fetch_references("got", paths=["http", "file.txt", "other"])
    assert contents("got") == {
        "file.txt": (b"local", False),
        "http/data.tar": (b"the data", False),
        "other": (b"in memory", False),
    }
    assert written == [os.path.join("got", name) for name in ("file.txt", "http/data.tar", "other")]
    assert "Authorization" not in web.seen[0]  # type: ignore[attr-defined]
    with pytest.raises(NotFoundError):
        loaded.fetch_references("got", paths=["gone"])
    with pytest.raises(TransferError, match="no-such-scheme"):
        loaded.fetch_references("got", paths=["unknown"])
    with pytest.raises(ConflictError):
        loaded.fetch_references("got", paths=["file.txt"])
    assert sorted(os.listdir("got")) == ["file.txt", "http", "other"]  # nothing half fetched


RIGHT = {"size": 8, "etag": '"v2"', "digest": _engine.digest(b"the data").hex()}


@pytest.mark.parametrize("wrong", [{"size": 9}, {"etag": '"v1"'}, {"digest": "ab" * 32}, {}])
def test_reference_that_is_not_what_was_recorded_is_refused(
    home: Path,
    server: Serving,
    web: http.server.ThreadingHTTPServer,
    wrong: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is known of it goes to the server and comes from there with it."""
    em.login(server.url, server.api_key)
    artifact = em.create_artifact("known")
    artifact.add_reference(f"http://127.0.0.1:{web.server_port}/data.tar", **{**RIGHT, **wrong})
    artifact.upload(FOLDER, make_folder=True, conflict_strategy="replace")
    (home.parent / "elsewhere").mkdir()
    monkeypatch.chdir(home.parent / "elsewhere")
    loaded = em.load_artifact(f"{FOLDER}/known")
    assert loaded.objects == artifact.objects
    for one in (loaded, em.Artifact.at(f"{FOLDER}/known")):
        (entry,) = one.to_dict()["objects"].values()
        assert {**RIGHT, **wrong}.items() <= entry.items()
    if not wrong:
        assert Path(loaded.fetch_references("got")[0]).read_bytes() == b"the data"
        return
    with pytest.raises(IntegrityError):
        loaded.fetch_references("got")
    assert os.listdir("got") == []


@pytest.mark.usefixtures("urllib3_1_26")
def test_reference_that_is_cut_off_or_too_long_is_refused(home: Path, web: http.server.ThreadingHTTPServer) -> None:
    url = f"http://127.0.0.1:{web.server_port}"
    artifact = em.create_artifact("unreliable")
    artifact.add_reference(f"{url}/cut-off", "cut-off")
    artifact.add_reference(f"{url}/long", "long", size=8)
    with pytest.raises(TransferError, match="cut-off"):
        artifact.fetch_references("got", paths=["cut-off"])
    with pytest.raises(IntegrityError, match="more bytes than the 8"):
        artifact.fetch_references("got", paths=["long"])
    assert os.listdir("got") == []
    # No more of it is read than tells that it is wrong.
    deadline = time.monotonic() + 30
    while web.seen[-1] != {"left": "/long"}:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_reference_of_impossible_content_is_refused(home: Path) -> None:
    artifact = em.create_artifact("impossible")
    for known in ({"size": -1}, {"size": 1 << 63}, {"digest": "xyz"}, {"digest": "ab"}, {"etag": "x" * 9000}):
        with pytest.raises(InvalidInputError):
            artifact.add_reference("https://example.org/a", **known)  # type: ignore[arg-type]
    assert artifact.objects == []


def test_opened_file_works_with_text_and_json(remote: em.Artifact) -> None:
    with io.TextIOWrapper(remote.open("run.sh")) as file:
        assert file.readline() == "#!/bin/sh\n"
    assert json.dumps(remote.to_dict())


def test_load_and_open_file_ask_again_where_a_chunk_is_that_left_its_pack(
    uploaded: em.Artifact, remote: em.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after the server has put chunks into other packs and deleted the old ones, which are 404 then."""
    locate, asked = artifacts.locate, []

    def locate_where_it_was(*arguments: Any) -> list[Place]:
        places = locate(*arguments)
        asked.append(len(places))
        if len(asked) % 2:
            return [Place(bytes(32), place.offset, place.length) for place in places]
        return places

    monkeypatch.setattr(artifacts, "locate", locate_where_it_was)
    with remote.open("large.bin") as file:
        assert file.read(1000) == Path(uploaded.local, "large.bin").read_bytes()[:1000]
    assert len(asked) == 2
    loaded = em.load_artifact(uploaded.remote[-1]["path"])
    assert contents(loaded.local) == contents(uploaded.local)
    assert len(asked) == 4


def test_chunk_that_is_in_no_pack_is_not_found(
    uploaded: em.Artifact, remote: em.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for twice, and no more."""
    locate = artifacts.locate

    def locate_nowhere(*arguments: Any) -> list[Place]:
        return [Place(bytes(32), place.offset, place.length) for place in locate(*arguments)]

    monkeypatch.setattr(artifacts, "locate", locate_nowhere)
    with remote.open("large.bin") as file, pytest.raises(NotFoundError):
        file.read()
    with pytest.raises(NotFoundError):
        em.load_artifact(uploaded.remote[-1]["path"])
    assert not Path(".em/artifacts").exists()

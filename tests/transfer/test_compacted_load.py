"""Loads while the server rewrites the packs they read from: they go on, or ask again where the chunks are."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from harness import Serving, run_server
from proxy import Faults, Proxy
from t9k import em
from t9k.aistore.artifacts.check import check
from t9k.aistore.artifacts.gc import Collected, collect
from t9k.aistore.artifacts.verification import check_objects
from t9k.aistore.db.tables import artifacts as tables
from t9k.aistore.services import Services, open_services
from t9k.aistore.settings import Settings
from t9k.aistore.tree import trash
from t9k.em.client import connection
from t9k.em.errors import NotFoundError
from t9k.em.transfer import fetch
from trees import artifact_of, contents

LATER, DAY = -10, 86_400
FILES = 16
FILE_BYTES = 200_000
"""Of one chunk each."""


@pytest.fixture
def server(tmp_path: Path, database_url: str | None) -> Iterator[Serving]:
    """A server of the test's own, on both databases."""
    with run_server(tmp_path / "aistore", database_url) as serving:
        yield serving


@pytest.fixture
def services(server: Serving, database_url: str | None) -> Iterator[Services]:
    """The same data, opened by another process."""
    with contextlib.closing(open_services(Settings(data_dir=server.data, database_url=database_url))) as opened:
        yield opened


@pytest.fixture
def kept(home: Path, server: Serving, proxy: Proxy, services: Services, monkeypatch: pytest.MonkeyPatch) -> em.Artifact:
    """An artifact on the server, the smaller part of the pack in which it was sent. This client has none of it."""
    em.login(proxy.url, server.api_key)
    chance = random.Random(3)
    files = [chance.randbytes(FILE_BYTES) for _ in range(FILES)]
    whole = artifact_of("whole", *files, *(chance.randbytes(FILE_BYTES) for _ in range(2 * FILES)))
    whole.upload("all", make_folder=True)
    part = artifact_of("part", *files)
    part.upload("all")
    assert (home / ".em/store").exists()
    session = connection.connected()
    node_id = session.request("GET", "/nodes", "find", params={"path": whole.remote[-1]["path"]}).json()["id"]
    session.request("DELETE", f"/nodes/{node_id}", "delete")
    session.request("DELETE", f"/trash/{node_id}", "delete")
    check_objects(services.database, services.blobs)
    trash.expire(services.database, 30)
    services.database.write(lambda connection: connection.execute(sa.delete(tables.commits)))
    services.database.write(lambda connection: connection.execute(sa.update(tables.leases).values(expires_us=1)))
    monkeypatch.setattr(fetch, "RANGE_BYTES", FILE_BYTES)  # a request for each file
    (home.parent / "other").mkdir()
    monkeypatch.chdir(home.parent / "other")
    return part


def run(services: Services, *, grace_s: int) -> Collected:
    return collect(services.database, services.blobs, lease_s=LATER, grace_s=grace_s)


def rewrite(services: Services) -> None:
    """Afterwards the old packs are condemned."""
    assert run(services, grace_s=DAY).rewritten_packs > 0
    assert run(services, grace_s=DAY).condemned_packs > 0


def rewrite_and_delete(services: Services) -> None:
    """Afterwards the old packs are gone, though they were condemned just now."""
    rewrite(services)
    assert run(services, grace_s=LATER).deleted_packs > 0


def asked(proxy: Proxy, what: str) -> int:
    return sum(what in request for request in proxy.requests)


@pytest.mark.parametrize(
    ("change", "locates"), [(rewrite, 1), (rewrite_and_delete, 2)], ids=["within the grace", "deleted"]
)
def test_slow_load_goes_on_while_its_packs_are_rewritten(
    kept: em.Artifact, proxy: Proxy, services: Services, change: Callable[[Services], None], locates: int
) -> None:
    proxy.reset()
    proxy.faults = Faults(bytes_per_s=FILE_BYTES)  # a second for each file, four at once
    loaded: list[em.Artifact] = []
    loading = threading.Thread(target=lambda: loaded.append(em.load_artifact(kept.remote[-1]["path"])))
    loading.start()
    while asked(proxy, "GET /api/v1/packs/") < 5 and loading.is_alive():
        time.sleep(0.01)
    first = proxy.requests.copy()
    change(services)
    assert asked(proxy, "GET /api/v1/packs/") < FILES  # it was in the midst of it
    proxy.faults = Faults()
    loading.join()
    assert contents(loaded[0].local) == contents(kept.local)
    assert sum("/locate" in request for request in first) == 1
    assert asked(proxy, "/locate") == locates
    assert list(check(services.database, services.blobs, read=True)) == []


def test_file_that_is_open_on_the_server_is_read_on(kept: em.Artifact, services: Services) -> None:
    """It may stay open for longer than any grace."""
    remote = em.Artifact.at(kept.remote[-1]["path"])
    name = "part-3"
    expected = Path(kept.local, name).read_bytes()
    with remote.open(name) as file:
        assert file.read(100) == expected[:100]
        rewrite_and_delete(services)
        file.seek(0)
        assert file.read() == expected


def test_load_of_what_is_deleted_meanwhile_says_so(
    kept: em.Artifact, proxy: Proxy, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = kept.remote[-1]["path"]
    session = connection.connected()
    node_id = session.request("GET", "/nodes", "find", params={"path": path}).json()["id"]
    ranges = fetch.ranges

    def delete_first(*arguments: object) -> object:
        session.request("DELETE", f"/nodes/{node_id}", "delete")
        return ranges(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fetch, "ranges", delete_first)
    with pytest.raises(NotFoundError):
        em.load_artifact(path)
    assert not Path(".em/artifacts").exists()

"""A server in a process of its own, and home directories of clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from harness import Serving, run_server
from proxy import Proxy, proxied
from scripts import Start, starting
from t9k import em
from t9k.em.client import connection


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One server for the tests of a module."""
    with run_server(tmp_path_factory.mktemp("aistore") / "data") as serving:
        yield serving


@pytest.fixture
def proxy(server: Serving) -> Iterator[Proxy]:
    """Stands before the server and counts what clients send."""
    with proxied(server.url) as counting:
        yield counting


@pytest.fixture
def logged_in(home: Path, proxy: Proxy, server: Serving) -> Path:
    """The home directory of a client that talks through the proxy, as do its commands, by the configuration."""
    config = f"current-context: c\ncontexts: [{{name: c, server: {proxy.url}, prefixes: {{aistore: ''}}, "
    Path(os.environ["T9K_CONFIG"]).write_text(config + f"auth: {{apikey: {server.api_key}}}}}]\n")
    em.login(proxy.url, server.api_key)
    proxy.reset()
    return home


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> str:
    """A folder of the server for one test, which nobody has made."""
    return str(request.node.name.replace("[", "-").rstrip("]"))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a store of its own, not logged in and without a configuration."""
    for name in [name for name in os.environ if name.startswith("EM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("EM_CAPTURE", "0")
    monkeypatch.setenv("EM_SYSTEM_METRICS", "0")
    monkeypatch.setenv("T9K_CONFIG", str(tmp_path / "no-config.yaml"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("aistore_host", "api_key"):
        monkeypatch.setitem(connection.CONFIG, name, None)
    directory = tmp_path / "home"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture(autouse=True)
def logged_out(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins as a new process does."""
    monkeypatch.setattr(connection, "_session", None)
    monkeypatch.setattr(connection, "_is_logged_out", False)
    yield
    connection.logout()


@pytest.fixture
def urllib3_1_26(monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses take a body that is cut off for whole, unless they are told not to."""
    made = urllib3.HTTPResponse.__init__

    def as_urllib3_1_26(response: Any, *arguments: Any, **options: Any) -> None:
        made(response, *arguments, **options)
        response.enforce_content_length = False

    monkeypatch.setattr(urllib3.HTTPResponse, "__init__", as_urllib3_1_26)


@pytest.fixture
def start(home: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts training scripts in `home`; what still runs at the end is killed."""
    with starting(tmp_path) as begin:
        yield begin

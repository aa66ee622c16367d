"""login and logout against a real server, and against what is no server."""

from __future__ import annotations

import http.server
import logging
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from harness import Serving
from t9k import em
from t9k.em.client import connection
from t9k.em.client.session import Session
from t9k.em.errors import AuthError, InvalidInputError, TransferError

WRONG_KEY = "em_pat_" + "0" * 33


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("t9k.em.client.session.FIRST_PAUSE_S", 0.01)


class _Recorder(http.server.BaseHTTPRequestHandler):
    """Answers what the server's `answers` say, and keeps what came."""

    def do_GET(self) -> None:
        self.server.seen.append(dict(self.headers))  # type: ignore[attr-defined]
        status, headers, body = self.server.answers.pop(0)  # type: ignore[attr-defined]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def recorder() -> Iterator[http.server.ThreadingHTTPServer]:
    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Recorder)
    listening.seen, listening.answers = [], []  # type: ignore[attr-defined]
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield listening
    listening.shutdown()
    thread.join()
    listening.server_close()


def _url(listening: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{listening.server_port}"


def test_login_with_a_good_key_knows_the_user(server: Serving, home: Path) -> None:
    em.login(server.url, server.api_key, timeout=5)
    session = connection.connected()
    assert session.user == server.user
    assert session.read_timeout_s == 5
    em.logout()
    with pytest.raises(AuthError, match="not logged in"):
        connection.connected()


def test_login_by_configuration_needs_no_call(server: Serving, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(connection.CONFIG, "aistore_host", server.url + "/")
    monkeypatch.setitem(connection.CONFIG, "api_key", server.api_key)
    assert connection.connected().user == server.user
    em.logout()
    with pytest.raises(AuthError, match="not logged in"):  # until somebody logs in again
        connection.connected()
    em.login()
    assert connection.connected().user == server.user


@pytest.mark.parametrize("key", [WRONG_KEY, "x"])
def test_login_with_a_bad_key_is_an_http_error_without_the_key(server: Serving, home: Path, key: str) -> None:
    with pytest.raises(requests.HTTPError) as caught:
        em.login(server.url, key)
    assert isinstance(caught.value, AuthError)
    assert isinstance(caught.value, PermissionError)
    assert caught.value.hint or "hint" in str(caught.value)
    assert WRONG_KEY not in "".join(traceback.format_exception(caught.value))


def test_login_to_a_closed_port_is_an_http_error_with_a_hint(home: Path, quick: None) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(requests.HTTPError, match="refused") as caught:
        em.login(f"http://127.0.0.1:{port}", WRONG_KEY)
    assert isinstance(caught.value, TransferError)
    assert "hint" in str(caught.value)


def test_login_to_no_known_host_is_an_http_error(home: Path, quick: None) -> None:
    with pytest.raises(requests.HTTPError, match=r"no-such-host\.invalid"):
        em.login("http://no-such-host.invalid", WRONG_KEY)


def test_login_without_address_or_key_is_an_http_error(home: Path) -> None:
    with pytest.raises(requests.HTTPError, match="no address"):
        em.login()
    with pytest.raises(requests.HTTPError, match="no API key") as caught:
        em.login("http://127.0.0.1:1")
    assert isinstance(caught.value, AuthError)


@pytest.mark.parametrize("url", ["localhost:80", "ftp://host", "http://", "http://me:secret@host", "http://h/?a=b", ""])
def test_login_to_what_is_no_address_is_refused_at_once(home: Path, url: str) -> None:
    with pytest.raises((InvalidInputError, requests.HTTPError)) as caught:
        em.login(url, WRONG_KEY)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["line\nbreak", "spa ce", "é", "k" * 600])
def test_login_with_a_key_of_no_possible_form_does_not_show_it(home: Path, key: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        em.login("http://127.0.0.1:1", key)
    assert key not in str(caught.value)


def test_login_waits_no_longer_than_its_timeout(home: Path, quick: None) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # accepts and never answers
    with silent, pytest.raises(requests.HTTPError, match="timed out"):
        em.login(f"http://127.0.0.1:{silent.getsockname()[1]}", WRONG_KEY, timeout=1)


def test_key_is_in_no_repr_log_or_pickle_of_errors(
    server: Serving, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    em.login(server.url, server.api_key)
    session = connection.connected()
    assert server.api_key not in repr(session) + repr(vars(session)) + repr(session._connections().__dict__)
    with pytest.raises(requests.HTTPError) as caught:
        em.login(server.url, WRONG_KEY)
    assert b"000000" not in pickle.dumps(str(caught.value))
    assert server.api_key not in caplog.text
    assert WRONG_KEY not in caplog.text


def test_redirect_is_not_followed_so_the_key_goes_to_no_other_host(
    recorder: http.server.ThreadingHTTPServer, home: Path
) -> None:
    recorder.answers += [(307, {"Location": "http://127.0.0.2:1/elsewhere"}, b"")]  # type: ignore[attr-defined]
    with pytest.raises(requests.HTTPError, match=r"redirects to 'http://127[.]0[.]0[.]2:1/elsewhere'"):
        em.login(_url(recorder), WRONG_KEY)


def test_netrc_does_not_replace_the_key(
    recorder: http.server.ThreadingHTTPServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "netrc").write_text("default login me password other")
    monkeypatch.setenv("NETRC", str(home / "netrc"))
    recorder.answers += [(200, {}, b'{"user": "ada"}')]  # type: ignore[attr-defined]
    em.login(_url(recorder), WRONG_KEY)
    assert recorder.seen[0]["Authorization"] == f"Bearer {WRONG_KEY}"  # type: ignore[attr-defined]


TLS = Path(__file__).parents[1] / "fixtures" / "tls.pem"
"""A key and a certificate for `localhost` that it has signed itself: `openssl req -x509 -newkey ec -nodes …`."""


def test_tls_is_verified_by_the_authorities_that_the_environment_names(
    recorder: http.server.ThreadingHTTPServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key goes to no server that cannot prove its name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS)
    with context.wrap_socket(recorder.socket, server_side=True) as recorder.socket:
        port, seen = recorder.server_port, recorder.seen  # type: ignore[attr-defined]
        recorder.answers += [(200, {}, b'{"user": "ada"}')]  # type: ignore[attr-defined]
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
        with pytest.raises(requests.HTTPError, match=r"verify failed.*REQUESTS_CA_BUNDLE"):
            em.login(f"https://localhost:{port}", WRONG_KEY)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(TLS))
        with pytest.raises(requests.HTTPError, match="verify failed"):
            em.login(f"https://127.0.0.1:{port}", WRONG_KEY)
        assert seen == []
        em.login(f"https://localhost:{port}", WRONG_KEY)
        assert [headers["Authorization"] for headers in seen] == [f"Bearer {WRONG_KEY}"]


def test_proxy_of_the_environment_is_asked_unless_the_host_is_excepted(
    recorder: http.server.ThreadingHTTPServer, home: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", _url(recorder))
    recorder.answers += [(200, {}, b'{"user": "ada"}')]  # type: ignore[attr-defined]
    em.login("http://aistore.invalid", WRONG_KEY)
    assert [headers["Host"] for headers in recorder.seen] == ["aistore.invalid"]  # type: ignore[attr-defined]
    monkeypatch.setenv("no_proxy", "aistore.invalid")
    with pytest.raises(requests.HTTPError, match=r"aistore\.invalid"):
        em.login("http://aistore.invalid", WRONG_KEY)
    assert len(recorder.seen) == 1  # type: ignore[attr-defined]


def test_busy_server_is_asked_again_after_the_time_it_names(
    recorder: http.server.ThreadingHTTPServer, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    busy = (503, {"Retry-After": "7"}, b"")
    recorder.answers += [busy, (200, {}, b'{"user": "ada"}')]  # type: ignore[attr-defined]
    em.login(_url(recorder), WRONG_KEY)
    assert pauses[-1] == 7


def test_request_that_is_not_idempotent_is_sent_once(recorder: http.server.ThreadingHTTPServer, home: Path) -> None:
    _Recorder.do_POST = _Recorder.do_GET  # type: ignore[attr-defined]
    recorder.answers += [(503, {"Retry-After": "0"}, b"")]  # type: ignore[attr-defined]
    with pytest.raises(TransferError, match="status 503"):
        Session.open(_url(recorder), None).request("POST", "/folders", "cannot make a folder", json={})
    assert len(recorder.seen) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "answer",
    [
        (200, {}, b"<html>a proxy's page</html>"),
        (200, {}, b"[" * 100_000),
        (200, {}, b'{"user": 3}'),
        (200, {"Content-Length": str(1 << 40)}, b""),
        (200, {"Content-Length": "100"}, b"cut"),
        (404, {}, b"not even JSON"),
        (500, {}, b'{"kind": ["list"], "detail": {"a": 1}}'),
    ],
)
def test_garbage_instead_of_a_server_is_a_typed_error(
    recorder: http.server.ThreadingHTTPServer, home: Path, quick: None, answer: tuple[int, dict[str, str], bytes]
) -> None:
    recorder.answers += [answer] * 3  # type: ignore[attr-defined]
    with pytest.raises(requests.HTTPError) as caught:
        em.login(_url(recorder), WRONG_KEY)
    assert isinstance(caught.value, TransferError)


@pytest.mark.usefixtures("urllib3_1_26")
def test_answer_that_is_cut_off_is_an_error(recorder: http.server.ThreadingHTTPServer, home: Path) -> None:
    body = b'{"user": "ada"}'
    recorder.answers += [(200, {"Content-Length": str(len(body) + 1)}, body)]  # type: ignore[attr-defined]
    session = Session.open(_url(recorder), None)
    session.attempts = 1
    with pytest.raises(TransferError, match="cannot ask: no answer from"):
        session.request("GET", "/session", "cannot ask")


def test_forked_child_opens_connections_of_its_own(server: Serving, home: Path) -> None:
    code = f"""
import os
from t9k import em
from t9k.em.client.connection import connected
em.login({server.url!r}, {server.api_key!r})
child = os.fork()
users = [connected().request("GET", "/session", "x").json()["user"] for _ in range(20)]
assert set(users) == {{{server.user!r}}}
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    os._exit(0)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_import_of_em_imports_neither_requests_nor_numpy(home: Path) -> None:
    code = "import sys; from t9k import em; print({'requests', 'numpy', 'yaml', 'json'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"

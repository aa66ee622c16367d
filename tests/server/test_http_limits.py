"""Requests of strangers: floods, slow clients, half-closed sockets, and shapes that two servers read differently."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
import uvicorn
from harness import Account
from starlette.testclient import TestClient
from t9k.aistore import http_protocol
from t9k.aistore.api.app import make_app
from t9k.aistore.http_protocol import LimitedProtocol
from t9k.aistore.services import Services
from t9k.protocol import MAX_JSON_BYTES


@pytest.fixture
def address(services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server in a thread, whose patience is a few tenths of a second."""
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.3)
    monkeypatch.setattr(http_protocol, "WATCH_EVERY_S", 0.2)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        make_app(services), http=LimitedProtocol, ws="none", log_config=None, access_log=False, timeout_keep_alive=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join()
    listener.close()


def answer(address: tuple[str, int], *parts: bytes, pause_s: float = 0.0, half_close: bool = False) -> bytes:
    """What the server says to these bytes until it closes; that it does not is an error."""
    received = b""
    with socket.create_connection(address, timeout=60) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause_s)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
            while block := connection.recv(65536):
                received += block
        except (ConnectionResetError, BrokenPipeError):
            pass
    return received


def status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1]) if response else 0


JSON = {"Content-Type": "application/json"}
GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"


def serves(address: tuple[str, int]) -> bool:
    """Whether a plain request is answered; a machine that is busy may be later with one than the server waits."""
    return any(status(answer(address, GET + b"\r\n")) == 200 for _ in range(50))


def test_plain_request_is_answered(address: tuple[str, int]) -> None:
    assert serves(address)


@pytest.mark.parametrize(
    "flood",
    [
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        GET + b"A: " + b"a" * 70_000 + b"\r\n\r\n",
        GET + b"A: " + b"a" * 900_000,
        GET + b"".join(b"A%d: b\r\n" % number for number in range(200)) + b"\r\n",
    ],
    ids=["url", "header", "endless header", "many headers"],
)
def test_flood_of_headers_is_refused(address: tuple[str, int], flood: bytes) -> None:
    assert status(answer(address, flood)) in (431, 0)
    assert serves(address)


SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"Content-Length: 0\r\nContent-Length: 5\r\n\r\n" + SMUGGLED,
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
        b"Content-Length: +5\r\n\r\n" + SMUGGLED,
        b"Content-Length: 5 \x0b\r\n\r\n" + SMUGGLED,
        b"Content-Length: 18446744073709551617\r\n\r\n" + SMUGGLED,
        b"A: b\x00c\r\n\r\n",
        b"A\x00: b\r\n\r\n",
    ],
)
def test_smuggling_shape_gets_no_second_answer(address: tuple[str, int], framing: bytes) -> None:
    response = answer(address, b"POST /healthz HTTP/1.1\r\nHost: x\r\n" + framing)
    assert status(response) in (400, 405, 0)
    assert b"aistore_requests" not in response


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /healthz HT"],
        [GET[index : index + 1] for index in range(30)],
        [b""],
        [b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n", *[b"a"] * 20],
        [b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\na\r\n"] * 20],
    ],
    ids=["half a line", "a byte at a time", "nothing", "slow body", "slow chunks"],
)
def test_slow_client_is_cut_off(address: tuple[str, int], parts: list[bytes]) -> None:
    assert status(answer(address, *parts, pause_s=0.1)) in (0, 405, 408)
    assert serves(address)


def test_connection_that_stays_idle_is_closed(address: tuple[str, int]) -> None:
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        received = b""
        while block := connection.recv(65536):
            received += block
    assert status(received) == 200


def test_half_closed_socket_is_answered(address: tuple[str, int]) -> None:
    assert status(answer(address, GET + b"\r\n", half_close=True)) in (200, 0)
    assert serves(address)


@pytest.mark.parametrize("url", ["/folders", "/runs", "/keys"])
def test_body_of_json_route_is_capped(api: TestClient, ada: Account, url: str) -> None:
    """Whether the length is declared or not."""
    for content in (b" " * (MAX_JSON_BYTES + 1), iter([b" " * MAX_JSON_BYTES, b" "])):
        answer = api.post(f"/api/v1{url}", content=content, headers=ada.headers | JSON)
        assert (answer.status_code, answer.json()["kind"]) == (413, "invalid_input")
    fits = api.post("/api/v1/folders", content=b'{"path": "/ada/x"}'.ljust(MAX_JSON_BYTES), headers=ada.headers | JSON)
    assert fits.status_code == 201


def test_chunked_body_without_an_end_is_refused_at_the_cap(address: tuple[str, int], ada: Account) -> None:
    head = f"POST /api/v1/folders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ada.key}\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    received, sent = b"", 0
    with socket.create_connection(address, timeout=30) as connection:
        connection.sendall(f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        with suppress(ConnectionResetError, BrokenPipeError):
            while not select.select([connection], [], [], 0)[0] and sent < 100 << 20:
                connection.sendall(chunk)
                sent += len(chunk)
        received = connection.recv(65536)
    assert status(received) == 413
    assert sent < 100 << 20


def test_other_protocol_version_is_told_which(api: TestClient) -> None:
    response = api.get("/api/v1/session", headers={"EM-Protocol": "2"})
    assert response.status_code == 400
    assert "version 1" in response.json()["detail"]

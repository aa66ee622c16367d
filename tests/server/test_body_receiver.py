"""Bodies that go past the parser into memory: every byte once, and the connection is as good afterwards."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import pytest
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from t9k.aistore.api.bodies import Room, body
from t9k.aistore.body_receiver import EXTENSION
from t9k.aistore.http_protocol import LimitedProtocol
from uploads import noise

CAP = 8 << 20
SEEN: dict[str, Any] = {}


class _State:
    room = Room(CAP)


class _App:
    state = _State


def refuse(_: memoryview) -> None:
    """Takes no piece of a body."""
    raise OSError(28, "No space left on device")


async def app(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
    """Answers digest and length of a body; on /full it breaks off; on /stream it reads as ASGI has it."""
    scope["app"] = _App
    request = Request(scope, receive)
    try:
        if scope["path"] == "/stream":
            data = b"".join([part async for part in request.stream()])
            answer = {"digest": sha256(data).hexdigest(), "length": len(data), "straight": False}
        else:
            take = refuse if scope["path"] == "/full" else None
            async with body(request, CAP, take) as memory:
                straight = EXTENSION in scope.get("extensions", {})
                answer = {"digest": sha256(memory).hexdigest(), "length": len(memory), "straight": straight}
        await JSONResponse(answer)(scope, receive, send)
    except (HTTPException, OSError) as error:
        SEEN["error"] = str(error)
        await PlainTextResponse("no", 507)(scope, receive, send)


@pytest.fixture(params=["uvloop", "asyncio"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    """A server in a thread, on either event loop, that hands bodies on in pieces of 1 MiB."""
    monkeypatch.setattr("t9k.aistore.api.bodies.PIECE_BYTES", 1 << 20)
    SEEN.clear()
    listener = socket.create_server(("127.0.0.1", 0))
    options: dict[str, Any] = {"http": LimitedProtocol, "ws": "none", "lifespan": "off", "log_config": None}
    server = uvicorn.Server(uvicorn.Config(app, loop=request.param, access_log=False, **options))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[socket.socket]:
    """A connection to the server."""
    with socket.create_connection(address, timeout=20) as opened:
        yield opened


def put(path: str, data: bytes, *headers: str) -> bytes:
    """A request."""
    lines = [f"PUT {path} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + data


def answers(connection: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and body of the next answers."""
    found, received = [], connection.makefile("rb")
    for _ in range(count):
        status, length = int(received.readline().split()[1]), 0
        while (line := received.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        found.append((status, received.read(length)))
    return found


def expected(data: bytes, *, straight: bool = True) -> tuple[int, bytes]:
    answer = {"digest": sha256(data).hexdigest(), "length": len(data), "straight": straight}
    return 200, json.dumps(answer, separators=(",", ":")).encode()


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1 << 20, (3 << 20) + 7])
def test_body_of_any_length_is_whole_and_the_next_request_is_read(connection: socket.socket, size: int) -> None:
    data = noise(size, size)
    for _ in range(3):
        connection.sendall(put("/", data))
        assert answers(connection, 1) == [expected(data)]


def test_body_that_comes_in_pieces_of_any_length_is_whole(connection: socket.socket) -> None:
    data = noise("pieces", 300_000)
    whole = put("/", data)
    for start in range(0, len(whole), 7919):
        connection.sendall(whole[start : start + 7919])
    assert answers(connection, 1) == [expected(data)]


def test_requests_that_come_at_once_are_all_answered_in_order(connection: socket.socket) -> None:
    bodies = [noise(number, size) for number, size in enumerate([200_000, 0, 2 << 20, 5, 100_000])]
    sender = threading.Thread(target=connection.sendall, args=(b"".join(put("/", data) for data in bodies),))
    sender.start()
    assert answers(connection, 5) == [expected(data) for data in bodies]
    sender.join()


def test_bodies_of_both_kinds_follow_one_another(connection: socket.socket) -> None:
    data = noise("both", 500_000)
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (data[:70_000], data[70_000:])) + b"0\r\n\r\n"
    chunked = b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks
    connection.sendall(put("/", data))
    assert answers(connection, 1) == [expected(data)]
    connection.sendall(put("/stream", data))
    assert answers(connection, 1) == [expected(data, straight=False)]
    connection.sendall(chunked)
    assert answers(connection, 1) == [expected(data, straight=False)]
    connection.sendall(put("/", data))
    assert answers(connection, 1) == [expected(data)]


def test_body_waits_for_leave_where_its_sender_does(connection: socket.socket) -> None:
    data = noise("leave", 200_000)
    head, body = put("/", data, "Expect: 100-continue").split(b"\r\n\r\n", 1)
    connection.sendall(head + b"\r\n\r\n")
    assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body)
    assert answers(connection, 1) == [expected(data)]


def test_rest_of_a_body_that_is_refused_is_thrown_away(connection: socket.socket) -> None:
    """The answer comes while the body does, memory is given back, and the connection serves on."""
    refused, data = put("/full", noise("refused", CAP)), noise("after", 100_000)
    sent = 2 << 20
    connection.sendall(refused[:sent])
    while "error" not in SEEN:
        connection.sendall(refused[sent : sent + 1000])
        sent += 1000
        time.sleep(0.001)
    assert answers(connection, 1) == [(507, b"no")]
    connection.sendall(refused[sent:] + put("/", data))
    assert answers(connection, 1) == [expected(data)]
    assert "No space" in SEEN["error"]


def test_client_that_goes_away_ends_the_body_and_gives_its_memory_back(address: tuple[str, int]) -> None:
    whole = put("/", noise("gone", CAP))
    with socket.create_connection(address, timeout=20) as gone:
        gone.sendall(whole[: 3 << 20])
    data = noise("next", CAP)  # takes all room there is
    with socket.create_connection(address, timeout=20) as connection:
        connection.sendall(put("/", data))
        assert answers(connection, 1) == [expected(data)]
    assert "ended early" in SEEN["error"]


def test_memory_is_not_touched_after_the_body_was_given_up() -> None:
    """Another body has it by then."""

    async def main() -> None:
        memory = bytearray(1 << 20)
        taken: list[int] = []

        async def giving_up(scope: dict[str, Any], receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
            into = scope["extensions"][EXTENSION]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await into(memoryview(memory), taken.append)
            memory[:] = bytes(len(memory))
            await PlainTextResponse("given up")(scope, receive, send)

        options: dict[str, Any] = {"http": LimitedProtocol, "ws": "none", "lifespan": "off", "log_config": None}
        server = uvicorn.Server(uvicorn.Config(giving_up, port=0, access_log=False, **options))
        listener = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        data = noise("slow", len(memory))
        writer.write(put("/", data)[:500_000])
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert sum(taken) > 0
        writer.write(put("/", data)[500_000:])
        await writer.drain()
        await asyncio.sleep(0.2)
        assert not any(memory)
        writer.close()
        server.should_exit = True
        await serving
        listener.close()

    asyncio.run(asyncio.wait_for(main(), 20))

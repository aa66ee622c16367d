"""HTTP/1.1 for strangers: uvicorn's protocol with limits on heads and on time.

uvicorn bounds what it buffers of a body, but neither the head of a request nor how slowly a client may send or read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from t9k.aistore.body_receiver import EXTENSION, BodyReceiver

MAX_HEAD_BYTES = 64 << 10
"""Request line and headers."""

MAX_HEADERS = 100

HEAD_TIMEOUT_S = 20.0
"""From the first byte of a request to the end of its headers."""

WATCH_EVERY_S = 10.0
MIN_BYTES_PER_WATCH = 16 << 10
"""A body must come, and a response must go, at least this fast: 1.6 kB/s."""

LATE_S = 1.0
"""A watch that comes so late tells of a process that stood still. What clients sent meanwhile has not been read yet."""

LOOK_AGAIN_S = 0.1
"""So long after its time an idle connection is looked at once more: timers come before what has arrived."""


class LimitedProtocol(HttpToolsProtocol):
    """One connection. A client that breaks a limit is answered if possible, and cut off."""

    _head_bytes = 0
    _head_deadline: float | None = None
    _in_head = True
    _received = 0
    _received_at_watch: int | None = None
    _unsent_at_watch = 0
    _watch_task: asyncio.TimerHandle | None = None
    _watch_due = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to watch."""
        super().connection_made(transport)
        self._head_deadline = self.loop.time() + HEAD_TIMEOUT_S
        self._watch_later()

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that is idle, unless a request has come while this process stood still."""
        self.timeout_keep_alive_task = self.loop.call_later(LOOK_AGAIN_S, super().timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops watching."""
        if self._watch_task is not None:
            self._watch_task.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts the bytes of heads before the parser keeps them."""
        self._received += len(data)
        if self._in_head:
            if self._head_deadline is None:
                self._head_deadline = self.loop.time() + HEAD_TIMEOUT_S
            self._head_bytes += len(data)
        super().data_received(data)
        # What was read behind a head belongs to its body and was counted too: only a head that goes on is too long.
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is complete."""
        self._in_head, self._head_bytes, self._head_deadline = False, 0, None
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if len(self.headers) > MAX_HEADERS or size > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            raise _TooLargeError  # ends the parser's work on this connection
        super().on_headers_complete()
        if not any(name == b"transfer-encoding" for name, _ in self.headers):
            extensions: dict[str, Any] = {EXTENSION: partial(self._body_into, self.cycle)}
            self.scope["extensions"] = extensions

    def body_came(self, count: int) -> None:
        """Bytes of a body have come past the parser."""
        self._received += count
        self._unset_keepalive_if_required()

    def body_is_whole(self) -> None:
        """Takes the connection back from a `BodyReceiver`. The parser, which waits for that body, is replaced."""
        self._read_with(self)
        self.parser = httptools.HttpRequestParser(self)
        self.on_message_complete()

    def on_message_complete(self) -> None:
        """A request is complete; the next head begins with the next byte."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers what is not HTTP, unless the connection was refused already."""
        if not self.transport.is_closing():
            super().send_400_response(msg)

    async def _body_into(self, cycle: RequestResponseCycle, memory: memoryview, arrived: Callable[[int], None]) -> None:
        """Of `t9k.aistore.body_receiver`."""
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        begun, cycle.body = cycle.body, bytearray()
        memory[: len(begun)] = begun
        if begun:
            arrived(len(begun))
        if cycle.disconnected or self.transport.is_closing() or not cycle.more_body:
            return
        receiver = BodyReceiver(self, memory[len(begun) :], arrived)
        self._read_with(receiver)
        try:
            await receiver.ended
        finally:
            receiver.abandon()

    def _read_with(self, protocol: asyncio.BaseProtocol) -> None:
        """Makes this the transport's protocol. Between two reads: a transport looks only then what kind it is."""
        self.flow.pause_reading()
        self.transport.set_protocol(protocol)
        self.flow.resume_reading()

    def _refuse(self, status: HTTPStatus) -> None:
        if self.transport.is_closing():
            return
        answer = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        self.transport.write(answer.encode())
        self.transport.close()

    def _watch_later(self) -> None:
        self._watch_due = self.loop.time() + WATCH_EVERY_S
        self._watch_task = self.loop.call_later(WATCH_EVERY_S, self._watch)

    def _watch(self) -> None:
        if self.transport.is_closing():
            return
        is_late = self.loop.time() > self._watch_due + LATE_S
        self._watch_later()
        if is_late:
            if self._head_deadline is not None:
                self._head_deadline = self.loop.time() + HEAD_TIMEOUT_S
            self._received_at_watch, self._unsent_at_watch = None, 0
            return
        if self._head_deadline is not None and self.loop.time() > self._head_deadline and self._is_between():
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
            return
        unsent = self.transport.get_write_buffer_size()
        is_body_due = self.cycle is not None and self.cycle.more_body and not self.flow.read_paused
        mark = self._received_at_watch
        is_slow = is_body_due and mark is not None and self._received - mark < MIN_BYTES_PER_WATCH
        is_stuck = unsent > 0 and unsent == self._unsent_at_watch
        if is_slow or is_stuck:
            self.transport.abort()
            return
        self._received_at_watch = self._received if is_body_due else None
        self._unsent_at_watch = unsent

    def _is_between(self) -> bool:
        """Whether no request is being answered: the time of a head counts only then."""
        return self.cycle is None or bool(self.cycle.response_complete)


class _TooLargeError(Exception):
    pass

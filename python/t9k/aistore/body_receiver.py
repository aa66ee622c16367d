"""A body of known length straight from its socket into the memory that is to have it.

The parser of HTTP and the queue of ASGI copy each byte four times on its way. Such a body needs neither: until it is
whole its connection has another protocol, which hands out the memory itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

EXTENSION = "aistore.body_into"
"""Of the ASGI scope: a `BodyInto`, where the length of the body is known."""

BodyInto = Callable[[memoryview, Callable[[int], None]], Awaitable[None]]
"""Fills memory of exactly the body's length, and calls with the count of each bytes that came. Where the client goes
away it returns early; what the call raises, it raises. Memory is not touched any more when it has ended."""

PIECE_BYTES = 1 << 20
"""Most bytes of one read, so that other connections have their turn."""

_waste = memoryview(bytearray(64 << 10))
"""Where bytes go that nobody wants."""


class Connection(Protocol):
    """What a receiver asks of the protocol whose place it takes."""

    def body_came(self, count: int) -> None:
        """More bytes of a body have come."""

    def body_is_whole(self) -> None:
        """What comes next is the head of a request."""

    def pause_writing(self) -> None:
        """As a transport calls it."""

    def resume_writing(self) -> None:
        """As a transport calls it."""

    def eof_received(self) -> None:
        """As a transport calls it."""

    def connection_lost(self, exc: Exception | None) -> None:
        """As a transport calls it."""


class BodyReceiver(asyncio.BufferedProtocol):
    """The protocol of a connection until a body is whole. What comes after `abandon` is thrown away."""

    def __init__(self, connection: Connection, memory: memoryview, arrived: Callable[[int], None]) -> None:
        """Takes as many bytes as `memory` has, and calls `arrived` with the count of each that came."""
        self._connection = connection
        self._memory: memoryview | None = memory
        self._arrived = arrived
        self._left = len(memory)
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the body is whole or the client has gone; failed when `arrived` has."""

    def abandon(self) -> None:
        """Touches the memory no more."""
        self._memory = None

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes go."""
        if self._memory is None:
            return _waste[: self._left]
        return self._memory[:PIECE_BYTES]

    def buffer_updated(self, nbytes: int) -> None:
        """Some have come."""
        self._left -= nbytes
        self._connection.body_came(nbytes)
        if self._memory is not None:
            self._memory = self._memory[nbytes:]
            self._tell(nbytes)
        if not self._left:
            self._end()
            self._connection.body_is_whole()

    def pause_writing(self) -> None:
        """Is the connection's business."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """Is the connection's business."""
        self._connection.resume_writing()

    def eof_received(self) -> None:
        """Is the connection's business."""
        self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """The body ends early."""
        self._end()
        self._connection.connection_lost(exc)

    def _tell(self, count: int) -> None:
        try:
            self._arrived(count)
        except Exception as error:  # the transport's edge: it is for who waits for the body
            self.abandon()
            if not self.ended.done():
                self.ended.set_exception(error)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

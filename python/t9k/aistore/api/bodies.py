"""Long bodies: capped, counted against what the process may hold, and not held up by slow clients.

A body is read when there is room for all of it; until then it stays with its sender. Who sends slower than
`MIN_BYTES_PER_S` while others wait for room gives it up.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from t9k.aistore.errors import Refusal
from t9k.protocol import MAX_PACK_BYTES

MIN_BYTES_PER_S = 256 << 10
MIN_SHARED_BYTES = 1 << 20
"""Shorter bodies have memory of their own."""

PATIENCE_S = 10.0
"""So long a body may take whatever its rate."""

WAIT_S = 60.0
"""So long a request waits for room."""


KEPT_S = 10.0
"""So long a buffer is kept for the next pack: touching 64 MiB of fresh memory takes longer than checking a pack."""


class Room:
    """Bytes of bodies that a process may hold at once, and buffers for them. Used on one event loop."""

    def __init__(self, size_bytes: int) -> None:
        """Has this many bytes."""
        self._size = size_bytes
        self._free = size_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._buffers: list[bytearray] = []

    @property
    def is_wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    @asynccontextmanager
    async def held(self, wanted: int) -> AsyncIterator[None]:
        """Room for a body, in the order of asking. One longer than all the room takes all of it.

        Raises:
            Refusal: There was none for a minute (`transfer`).
        """
        wanted = min(wanted, self._size)
        await self._take(wanted)
        try:
            yield
        finally:
            self._free += wanted
            self._admit()

    @contextmanager
    def buffer(self, size_bytes: int) -> Iterator[memoryview]:
        """Memory for a body of this length; another body's when the block has ended."""
        if not MIN_SHARED_BYTES < size_bytes <= MAX_PACK_BYTES:
            yield memoryview(bytearray(size_bytes))
            return
        memory = self._buffers.pop() if self._buffers else bytearray(MAX_PACK_BYTES)
        try:
            yield memoryview(memory)[:size_bytes]
        finally:
            self._buffers.append(memory)
            asyncio.get_running_loop().call_later(KEPT_S, self._drop, memory)

    def _drop(self, memory: bytearray) -> None:
        self._buffers = [kept for kept in self._buffers if kept is not memory]

    async def _take(self, wanted: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, turn))
        self._admit()
        try:
            await asyncio.wait_for(asyncio.shield(turn), WAIT_S)
        except BaseException as error:
            if turn.done():
                self._free += wanted
            else:
                turn.cancel()
            self._admit()
            if isinstance(error, TimeoutError):
                raise Refusal("transfer", "the server has too many uploads at once", hint="try again") from None
            raise

    def _admit(self) -> None:
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.cancelled():
                if wanted > self._free:
                    return
                self._free -= wanted
                turn.set_result(None)
            self._waiting.popleft()


@asynccontextmanager
async def body(request: Request, cap: int) -> AsyncIterator[memoryview]:
    """The body of a request, once; its memory is another body's when the block has ended.

    Raises:
        HTTPException: It is longer than `cap` (413).
        Refusal: There is no room, or it came too slowly while others waited (`transfer`).
    """
    too_long = HTTPException(413, f"a body has at most {cap} bytes here")
    declared = request.headers.get("content-length", "")
    length = int(declared[:20]) if declared.isascii() and declared.isdecimal() else None
    if length is not None and length > cap:
        raise too_long
    room: Room = request.app.state.room
    async with room.held(cap if length is None else length):
        if length is None:
            grown = bytearray()
            await _read(request, grown, cap, room, too_long)
            yield memoryview(grown)
            return
        with room.buffer(length) as memory:
            if await _read(request, memory, length, room, too_long) != length:
                raise HTTPException(400, "the body ended early")
            yield memory


async def _read(request: Request, data: bytearray | memoryview, cap: int, room: Room, too_long: HTTPException) -> int:
    """Reads a body into `data`; answers its bytes."""
    at, began = 0, time.monotonic()
    try:
        async for part in request.stream():
            if at + len(part) > cap:
                raise too_long
            data[at : at + len(part)] = part
            at += len(part)
            took = time.monotonic() - began
            if took > PATIENCE_S and room.is_wanted and at < MIN_BYTES_PER_S * took:
                raise Refusal("transfer", "the body came too slowly while others waited", hint="try again later")
    except ClientDisconnect:
        raise HTTPException(400, "the body ended early") from None
    return at

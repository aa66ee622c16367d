"""Long bodies: capped, counted against what the process may hold, and not held up by slow clients.

A body is read when there is room for all of it; until then it stays with its sender. Who sends nothing for `SILENCE_S`,
or slower than `MIN_BYTES_PER_S`, while others wait for room gives it up.
"""

from __future__ import annotations

import asyncio
import mmap
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from t9k.aistore.body_receiver import EXTENSION, BodyInto
from t9k.aistore.errors import Refusal
from t9k.protocol import MAX_PACK_BYTES

MIN_BYTES_PER_S = 256 << 10
MIN_SHARED_BYTES = 1 << 20
"""Shorter bodies have memory of their own."""

PATIENCE_S = 10.0
"""So long a body may take whatever its rate."""

SILENCE_S = 3.0
"""So long nothing need come: longer than it takes to send a lost packet again. Who died leaves room after it."""

WATCH_EVERY_S = 0.5

WAIT_S = 60.0
"""So long a request waits for room."""

PIECE_BYTES = 4 << 20
"""What is handed on of a body at least, while the rest of it arrives."""

LARGE_PAGE_BYTES = 2 << 20

KEPT_S = 10.0
"""So long a buffer is kept for the next pack: touching 64 MiB of fresh memory takes longer than checking a pack."""


class Room:
    """Bytes of bodies that a process may hold at once, and buffers for them. Used on one event loop.

    Buffers that are kept for the next body never make it more.
    """

    def __init__(self, size_bytes: int) -> None:
        """Has this many bytes."""
        self._size = size_bytes
        self._free = size_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._used = 0
        self._kept: list[tuple[mmap.mmap, int]] = []
        """Buffers, and how much of each was touched."""

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
        if size_bytes <= MIN_SHARED_BYTES:
            yield memoryview(bytearray(size_bytes))
            return
        if size_bytes > MAX_PACK_BYTES:  # memory that counts only as far as bytes have come
            yield memoryview(mmap.mmap(-1, size_bytes))
            return
        memory, before = self._kept.pop() if self._kept else (_pages(MAX_PACK_BYTES), 0)
        touched = -(-size_bytes // LARGE_PAGE_BYTES) * LARGE_PAGE_BYTES
        if before > touched:
            memory.madvise(mmap.MADV_DONTNEED, touched, before - touched)
        self._used += touched
        self._fit()
        try:
            yield memoryview(memory)[:size_bytes]
        finally:
            self._used -= touched
            self._kept.append((memory, touched))
            self._fit()
            asyncio.get_running_loop().call_later(KEPT_S, self._drop, memory)

    def _fit(self) -> None:
        """Lets go of the buffers that nobody has used for longest, until all that were touched fit."""
        while self._kept and self._used + sum(touched for _, touched in self._kept) > self._size:
            del self._kept[0]

    def _drop(self, memory: mmap.mmap) -> None:
        self._kept = [kept for kept in self._kept if kept[0] is not memory]

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


def _pages(size_bytes: int) -> mmap.mmap:
    """Memory of large pages: touched and handed to the disk 2 MiB at a time."""
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class _Watch:
    """Looks now and then how a body comes, and ends its reading if that is too slow while others wait for room."""

    def __init__(self, room: Room, limit: asyncio.Timeout) -> None:
        self._loop = asyncio.get_running_loop()
        self._room = room
        self._limit = limit
        self._bytes = 0
        self._began = self._heard = self._loop.time()
        self._timer = self._loop.call_later(WATCH_EVERY_S, self._look)

    def arrived(self, count: int) -> None:
        """Some bytes have come."""
        self._bytes += count
        self._heard = self._loop.time()

    def stop(self) -> None:
        """Looks no more."""
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        took_s = now - self._began
        is_slow = took_s > PATIENCE_S and self._bytes < MIN_BYTES_PER_S * took_s
        if self._room.is_wanted and (is_slow or now - self._heard > SILENCE_S):
            self._limit.reschedule(now)
        else:
            self._timer = self._loop.call_later(WATCH_EVERY_S, self._look)


class _Taker:
    """Hands a body on in pieces, one at a time and in a thread, while the rest of it arrives."""

    def __init__(self, take: Callable[[memoryview], object]) -> None:
        self._take = take
        self._taken = 0
        self._task: asyncio.Task[object] | None = None

    def offer(self, arrived: memoryview) -> None:
        """Hands on what is new, unless that is short or the piece before is not done. Raises what that has raised."""
        if self._task is not None:
            if not self._task.done():
                return
            self._task.result()
        end = len(arrived) - len(arrived) % PIECE_BYTES
        if end > self._taken:
            piece, self._taken = arrived[self._taken : end], end
            self._task = asyncio.create_task(run_in_threadpool(self._take, piece))

    async def settle(self) -> BaseException | None:
        """Waits until nobody looks at the body any more; answers what has failed."""
        if self._task is None:
            return None
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        return outcome if isinstance(outcome, BaseException) else None


@asynccontextmanager
async def body(
    request: Request, cap: int, take: Callable[[memoryview], object] | None = None
) -> AsyncIterator[memoryview]:
    """The body of a request, once; its memory is another body's when the block has ended.

    Args:
        request: Whose body it is.
        cap: Most bytes.
        take: May be called in a thread, once or more, with the next bytes of a long body while the rest arrives, and
            never with its end: what it was not called with is for who has the whole body.

    Raises:
        HTTPException: It is longer than `cap` (413).
        Refusal: There is no room, or it came too slowly while others waited (`transfer`).
    """
    too_long = HTTPException(413, f"a body has at most {cap} bytes here")
    declared = request.headers.get("content-length", "")
    length = int(declared[:20]) if declared.isascii() and declared.isdecimal() else None
    if length is None and cap > MAX_PACK_BYTES:
        cap = MAX_PACK_BYTES
        too_long = HTTPException(411, f"a body of more than {MAX_PACK_BYTES} bytes tells its length")
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
            taker = _Taker(take) if take is not None else None
            failure: BaseException | None = None
            try:
                if await _read(request, memory, length, room, too_long, taker) != length:
                    raise HTTPException(400, "the body ended early")
            finally:
                if taker is not None:
                    failure = await taker.settle()
            if failure is not None:
                raise failure
            yield memory


async def _read(
    request: Request,
    data: bytearray | memoryview,
    cap: int,
    room: Room,
    too_long: HTTPException,
    taker: _Taker | None = None,
) -> int:
    """Reads a body into `data`; answers its bytes."""
    at = 0
    into: BodyInto | None = request.scope.get("extensions", {}).get(EXTENSION)

    def arrived(count: int) -> None:
        nonlocal at
        at += count
        watch.arrived(count)
        if taker is not None and isinstance(data, memoryview):
            taker.offer(data[:at])

    try:
        async with asyncio.timeout(None) as limit:
            watch = _Watch(room, limit)
            try:
                if into is not None and isinstance(data, memoryview):
                    await into(data, arrived)
                    return at
                async for part in request.stream():
                    if at + len(part) > cap:
                        raise too_long
                    data[at : at + len(part)] = part
                    arrived(len(part))
            finally:
                watch.stop()
    except TimeoutError:
        if not limit.expired():
            raise
        raise Refusal("transfer", "the body came too slowly while others waited", hint="try again later") from None
    except ClientDisconnect:
        raise HTTPException(400, "the body ended early") from None
    return at

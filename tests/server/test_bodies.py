"""Room for long bodies: in the order of asking, given back whatever happens, taken from who is slow."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from t9k.aistore.api import bodies
from t9k.aistore.api.bodies import Room, body
from t9k.aistore.errors import Refusal
from t9k.protocol import MAX_PACK_BYTES


class _App:
    class state:
        room = Room(100)


def request_of(*parts: bytes, delay_s: float = 0.0) -> Request:
    sent = list(parts)

    async def receive() -> dict[str, object]:
        await asyncio.sleep(delay_s)
        return {"type": "http.request", "body": sent.pop(0), "more_body": bool(sent)}

    length = str(sum(map(len, parts))).encode()
    scope = {"type": "http", "headers": [(b"content-length", length)], "app": _App, "method": "PUT", "path": "/"}
    return Request(scope, receive)


def test_room_is_given_in_the_order_of_asking_and_back_after_a_cancel() -> None:
    async def main() -> None:
        room, order = Room(100), []

        async def hold(name: str, size: int, seconds: float) -> None:
            async with room.held(size):
                order.append(name)
                await asyncio.sleep(seconds)

        first = asyncio.create_task(hold("first", 60, 0.05))
        await asyncio.sleep(0)
        long = asyncio.create_task(hold("long", 10_000, 0))  # longer than all of it: gets all of it
        given_up = asyncio.create_task(hold("given up", 60, 0))
        small = asyncio.create_task(hold("small", 1, 0))
        await asyncio.sleep(0.01)
        assert order == ["first"]
        given_up.cancel()
        await asyncio.gather(first, long, small)
        assert order == ["first", "long", "small"]
        async with room.held(100):
            pass

    asyncio.run(asyncio.wait_for(main(), 10))


def test_buffers_that_are_kept_never_hold_more_than_the_room() -> None:
    """Short bodies at once leave many buffers, each of which a long body could fill in its turn."""
    short, block = 2 << 20, bytes(MAX_PACK_BYTES)

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def main() -> None:
        room = Room(2 * MAX_PACK_BYTES)
        before = resident()
        for count in (8, *range(8)):
            with ExitStack() as stack:
                for _ in range(count):
                    stack.enter_context(room.buffer(short))[:] = block[:short]
                if count < 8:
                    stack.enter_context(room.buffer(MAX_PACK_BYTES))[:] = block
                assert resident() - before < 2 * MAX_PACK_BYTES + (32 << 20)

    asyncio.run(main())


def test_slow_body_goes_on_alone_and_gives_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PATIENCE_S", 0.01)
    monkeypatch.setattr(bodies, "WATCH_EVERY_S", 0.01)

    async def main() -> None:
        _App.state.room = Room(100)
        async with body(request_of(*[b"x"] * 5, delay_s=0.01), 100) as data:
            assert bytes(data) == b"xxxxx"

        async def slow() -> None:
            async with body(request_of(*[b"x" * 20] * 5, delay_s=0.02), 100):
                pass

        other = asyncio.create_task(slow())
        await asyncio.sleep(0.01)
        async with body(request_of(b"y" * 50), 100) as data:
            assert bytes(data) == b"y" * 50
        with pytest.raises(Refusal, match="too slowly") as refused:
            await other
        assert refused.value.kind == "transfer"

    asyncio.run(asyncio.wait_for(main(), 10))


def test_silent_body_gives_way_to_others_and_to_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SILENCE_S", 0.01)
    monkeypatch.setattr(bodies, "WATCH_EVERY_S", 0.005)

    async def main() -> None:
        _App.state.room = Room(100)

        async def dead() -> None:
            async with body(request_of(b"x" * 99, b"x", delay_s=3600), 100):
                pass

        other = asyncio.create_task(dead())
        await asyncio.sleep(0.1)
        assert not other.done()  # nobody waits
        async with body(request_of(b"y" * 100), 100) as data:
            assert bytes(data) == b"y" * 100
        with pytest.raises(Refusal, match="too slowly"):
            await other

    asyncio.run(asyncio.wait_for(main(), 10))


def test_long_body_is_handed_on_while_the_rest_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PIECE_BYTES", 10)
    taken: list[bytes] = []

    async def main() -> None:
        _App.state.room = Room(1000)
        parts = [bytes([number]) * 7 for number in range(9)]
        async with body(request_of(*parts, delay_s=0.005), 1000, lambda part: taken.append(bytes(part))) as data:
            whole = bytes(data)
        assert whole == b"".join(parts)
        assert b"".join(taken) == whole[: sum(map(len, taken))]  # in order, each byte once
        assert len(taken) > 1
        assert all(len(part) % 10 == 0 for part in taken)

    asyncio.run(asyncio.wait_for(main(), 10))


def test_body_that_cannot_be_taken_is_refused_before_all_of_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PIECE_BYTES", 10)

    def full(_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def main() -> None:
        _App.state.room = Room(1000)
        for parts in ([b"x" * 10] * 50, [b"x" * 10]):  # while it arrives; with its last bytes
            request = request_of(*parts, delay_s=0.005)
            with pytest.raises(OSError, match="No space left"):
                async with body(request, 1000, full):
                    raise AssertionError("not reached")
        async with _App.state.room.held(1000):
            pass  # all of it was given back

    asyncio.run(asyncio.wait_for(main(), 10))


def test_memory_of_a_body_that_ended_early_is_given_back_when_nobody_looks_at_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "PIECE_BYTES", 10)
    is_taking, events = threading.Event(), []

    def slow(part: memoryview) -> None:
        is_taking.set()
        time.sleep(0.05)
        events.append(bytes(part))

    async def main() -> None:
        _App.state.room = Room(100_000)

        async def receive() -> dict[str, object]:
            await asyncio.sleep(0.001)
            if not is_taking.is_set():
                return {"type": "http.request", "body": b"x" * 10, "more_body": True}
            return {"type": "http.disconnect"}

        scope = request_of(b"x" * 100_000).scope
        with pytest.raises(HTTPException, match="ended early"):
            async with body(Request(scope, receive), 100_000, slow):
                raise AssertionError("not reached")
        assert len(events) == 1
        assert set(events[0]) == set(b"x")

    asyncio.run(asyncio.wait_for(main(), 10))

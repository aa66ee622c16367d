"""A TCP proxy of the tests' own: it counts, and it cuts, delays, throttles, duplicates and corrupts at random."""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

_BLOCK_BYTES = 64 << 10
_REQUEST = re.compile(rb"(GET|POST|PUT|PATCH|DELETE) (/[^ ]*) HTTP/1\.1\r\n")
_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)\r\n", re.IGNORECASE)
_PATIENCE_S = 120.0


@dataclass
class Faults:
    """Chances for each block of up to 64 KiB in either direction, and what a block may take.

    Attributes:
        cut: The connection is closed.
        corrupt: One bit of the block is flipped; only of long bodies, whose bytes have digests.
        delay: The block waits between `least_delay_s` and `delay_s`.
        bytes_per_s: Rate of the whole connection.
        duplicate: Chance of each request that it arrives once more, over a connection of its own, at about the same
            time or a little later; the second answer goes to nobody.
    """

    cut: float = 0.0
    corrupt: float = 0.0
    delay: float = 0.0
    delay_s: float = 0.05
    least_delay_s: float = 0.0
    bytes_per_s: float = 0.0
    duplicate: float = 0.0
    random: random.Random = field(default_factory=random.Random)


NETWORKS = {
    "far": Faults(delay=1.0, least_delay_s=0.1, delay_s=0.2),
    "narrow": Faults(bytes_per_s=500e3),
    "lossy": Faults(delay=0.05, least_delay_s=0.2, delay_s=0.8),
    "far, narrow and lossy": Faults(delay=0.3, least_delay_s=0.1, delay_s=0.8, bytes_per_s=1e6),
}
"""Networks that break nothing and make all take long. A lost packet is what an application sees of one: the stream
stands still until it is sent again, 0.2 s at least with Linux."""


class Proxy:
    """Counts what passes to a server.

    Attributes:
        url: Its own.
        sent_bytes: From clients, heads of requests included.
        received_bytes: From the server.
        requests: Method and path of each, in the order of their coming.
        body_bytes: Of each of them.
        faults: What it does to them.
        faulted: Blocks that were cut or corrupted.
        duplicated: Requests that arrived twice.
    """

    def __init__(self, target_port: int, faults: Faults | None = None) -> None:
        self._target_port = target_port
        self.faults = faults or Faults()
        self.sent_bytes = 0
        self.received_bytes = 0
        self.requests: list[str] = []
        self.body_bytes: list[int] = []
        self.faulted = 0
        self.duplicated = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Counts from nothing again."""
        with self._lock:
            self.sent_bytes = self.received_bytes = self.faulted = self.duplicated = 0
            self.requests, self.body_bytes = [], []

    def close(self) -> None:
        """Ends all connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        self.cut_all()

    def cut_all(self) -> None:
        """Ends the connections that are open now."""
        with self._lock:
            sockets = list(self._open)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._target_port), timeout=30)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._open |= {client, server}
            for source, sink, is_sending in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, is_sending), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_sending: bool) -> None:
        in_long_body = 0
        duplicates = _Duplicates(self) if is_sending else None
        try:
            while block := source.recv(_BLOCK_BYTES):
                in_long_body = in_long_body + 1 if len(block) > 4096 and not block.startswith(b"HTTP/") else 0
                with self._lock:
                    if is_sending:
                        self.sent_bytes += len(block)
                        for found in _REQUEST.finditer(block):
                            head = block[found.start() : block.find(b"\r\n\r\n", found.end()) + 2]
                            length = _LENGTH.search(head)
                            self.requests.append(b" ".join(found.groups()).decode())
                            self.body_bytes.append(int(length[1]) if length else 0)
                    else:
                        self.received_bytes += len(block)
                if duplicates is not None:
                    duplicates.pass_on(block)
                block = self._spoil(block, in_long_body)
                if not block:
                    break
                sink.sendall(block)
        except OSError:
            pass
        finally:
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            with self._lock:
                self._open -= {source, sink}

    def send_again(self, request: bytes) -> None:
        """Sends a whole request over a connection of its own, a little later; nobody gets the answer."""
        self.duplicated += 1
        pause_s = self.faults.random.uniform(0, 0.05)
        threading.Thread(target=self._send_again, args=(request, pause_s), daemon=True).start()

    def _send_again(self, request: bytes, pause_s: float) -> None:
        time.sleep(pause_s)
        line, _, rest = request.partition(b"\r\n")
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", self._target_port), timeout=_PATIENCE_S) as server,
        ):
            server.sendall(line + b"\r\nConnection: close\r\n" + rest)
            while server.recv(_BLOCK_BYTES):
                pass

    def _spoil(self, block: bytes, in_long_body: int) -> bytes:
        faults = self.faults
        if faults.bytes_per_s:
            time.sleep(len(block) / faults.bytes_per_s)
        if faults.random.random() < faults.delay:
            time.sleep(faults.random.uniform(faults.least_delay_s, faults.delay_s))
        if faults.random.random() < faults.cut:
            self.faulted += 1
            return b""
        if in_long_body > 1 and faults.random.random() < faults.corrupt:
            self.faulted += 1
            at = faults.random.randrange(len(block))
            return block[:at] + bytes([block[at] ^ 1 << faults.random.randrange(8)]) + block[at + 1 :]
        return block


class _Duplicates:
    """The requests of one connection, some of which are sent again; they are kept only while that may be."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._kept = bytearray()
        self._is_at_head = True

    def pass_on(self, block: bytes) -> None:
        """Takes what comes next of the stream."""
        faults = self._proxy.faults
        if not self._kept:
            self._is_at_head = _REQUEST.match(block) is not None
        if not (faults.duplicate and self._is_at_head):
            self._kept.clear()
            return
        self._kept += block
        while (end := self._end()) is not None:
            if faults.random.random() < faults.duplicate:
                self._proxy.send_again(bytes(self._kept[:end]))
            del self._kept[:end]

    def _end(self) -> int | None:
        """Where the first request ends, once all of it has come."""
        behind_head = self._kept.find(b"\r\n\r\n") + 4
        if behind_head < 4:
            return None
        length = _LENGTH.search(self._kept, 0, behind_head)
        end = behind_head + (int(length[1]) if length else 0)
        return end if end <= len(self._kept) else None


@contextlib.contextmanager
def proxied(url: str, faults: Faults | None = None) -> Iterator[Proxy]:
    """A proxy before the server at a URL."""
    proxy = Proxy(int(url.rpartition(":")[2]), faults)
    try:
        yield proxy
    finally:
        proxy.close()

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


@dataclass
class Faults:
    """Chances for each block of up to 64 KiB in either direction, and what a block may take.

    Attributes:
        cut: The connection is closed.
        corrupt: One bit of the block is flipped; only of long bodies, whose bytes have digests.
        delay: The block waits between `least_delay_s` and `delay_s`.
        bytes_per_s: Rate of the whole connection.
    """

    cut: float = 0.0
    corrupt: float = 0.0
    delay: float = 0.0
    delay_s: float = 0.05
    least_delay_s: float = 0.0
    bytes_per_s: float = 0.0
    random: random.Random = field(default_factory=random.Random)


class Proxy:
    """Counts what passes to a server.

    Attributes:
        url: Its own.
        sent_bytes: From clients, heads of requests included.
        received_bytes: From the server.
        requests: Method and path of each, in the order of their coming.
        body_bytes: Of each of them.
        faults: What it does to them.
    """

    def __init__(self, target_port: int, faults: Faults | None = None) -> None:
        self._target_port = target_port
        self.faults = faults or Faults()
        self.sent_bytes = 0
        self.received_bytes = 0
        self.requests: list[str] = []
        self.body_bytes: list[int] = []
        self.faulted = 0
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._open: set[socket.socket] = set()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def reset(self) -> None:
        """Counts from nothing again."""
        with self._lock:
            self.sent_bytes = self.received_bytes = self.faulted = 0
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


@contextlib.contextmanager
def proxied(url: str, faults: Faults | None = None) -> Iterator[Proxy]:
    """A proxy before the server at a URL."""
    proxy = Proxy(int(url.rpartition(":")[2]), faults)
    try:
        yield proxy
    finally:
        proxy.close()

"""A server that lies: what it answers is another server's answer, changed on the way."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import threading
from collections.abc import Callable, Iterator

Lie = Callable[[str, bytes], bytes]
"""From the path of a request and the body of its answer to the body that the client gets."""

_KEPT = ("Authorization", "Content-Type", "EM-Lease", "EM-History", "Idempotency-Key", "Range")


@contextlib.contextmanager
def lying(url: str, lie: Lie) -> Iterator[str]:
    """The URL of a liar before the server at another."""
    place = url.removeprefix("http://")

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: self.headers[name] for name in _KEPT if name in self.headers}
            connection = http.client.HTTPConnection(place, timeout=300)
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status < 300:
                said = lie(self.path, said)
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            with contextlib.suppress(OSError):  # the client wants no more of it
                self.wfile.write(said)
            connection.close()

        do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()

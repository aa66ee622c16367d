"""What every request passes: an id, the protocol's version, a cap on its body, security headers, a line in the log."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from t9k.aistore.api.metrics import RequestMetrics
from t9k.aistore.api.problems import problem
from t9k.protocol import HISTORY_HEADER, MAX_JSON_BYTES, PROTOCOL_HEADER, PROTOCOL_VERSION, REQUEST_ID_HEADER

log = logging.getLogger("aistore.access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Envelope:
    """Wraps the app; see the module. Bodies of routes that do not read them piece by piece are capped here."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics, streaming: re.Pattern[str], history: str) -> None:
        """Wraps an app.

        Args:
            app: What answers.
            metrics: Counts requests.
            streaming: Matches the paths of routes that read their bodies themselves, with caps of their own.
            history: Id of the database's history.
        """
        self._app = app
        self._metrics = metrics
        self._streaming = streaming
        self._history = history

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get(REQUEST_ID_HEADER, "")
        request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        scope["request_id"] = request_id
        status = 499  # the client went away before there was an answer

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                answer = MutableHeaders(scope=message)
                for name, value in _SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
                answer[REQUEST_ID_HEADER] = request_id
                answer[PROTOCOL_HEADER] = str(PROTOCOL_VERSION)
                answer[HISTORY_HEADER] = self._history
            await send(message)

        began = time.perf_counter()
        try:
            if headers.get(PROTOCOL_HEADER, str(PROTOCOL_VERSION)) != str(PROTOCOL_VERSION):
                detail = f"this server speaks version {PROTOCOL_VERSION} of the protocol"
                hint = "use a release of t9k for this version"
                refusal = problem(Request(scope), 400, "invalid_input", detail, hint)
                await refusal(scope, receive, send_with_headers)
            elif headers.get(HISTORY_HEADER, self._history) != self._history:
                detail = "the server was restored from a backup since it took what this request relies on"
                hint = "look at what it has, and send the rest again"
                refusal = problem(Request(scope), 412, "conflict", detail, hint)
                await refusal(scope, receive, send_with_headers)
            elif self._streaming.fullmatch(scope["path"]):
                await self._app(scope, receive, send_with_headers)
            else:
                await self._app(scope, _capped(headers, receive), send_with_headers)
        finally:
            self._note(scope, status, time.perf_counter() - began)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # The route's template, not the path: names and ids of nodes do not belong into logs and metrics.
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.note(scope["method"], route, status, seconds)
        level = logging.WARNING if status >= 500 else logging.INFO
        if log.isEnabledFor(level):
            fields = {
                "request_id": scope["request_id"],
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 2),
            }
            log.log(level, "request", extra={"fields": fields})


def _capped(headers: Headers, receive: Receive) -> Receive:
    """A `receive` that fails with 413 where the body is longer than JSON may be."""
    too_long = HTTPException(413, f"a body has at most {MAX_JSON_BYTES} bytes here")
    length = headers.get("content-length", "0")
    is_declared_too_long = length.isdecimal() and int(length[:20]) > MAX_JSON_BYTES
    received = 0

    async def capped() -> Message:
        nonlocal received
        if is_declared_too_long:
            raise too_long
        message = await receive()
        if message["type"] == "http.request":
            received += len(message.get("body", b""))
            if received > MAX_JSON_BYTES:
                raise too_long
        return message

    return capped

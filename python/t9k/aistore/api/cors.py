"""Pages of other origins that may call the API: none, unless the server is told their names."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from t9k.protocol import HISTORY_HEADER, LEASE_HEADER, PROTOCOL_HEADER, REQUEST_ID_HEADER
from t9k.protocol.runs import NEXT_HEADER

EXPOSED = (
    "Content-Range",
    "ETag",
    "Retry-After",
    HISTORY_HEADER,
    LEASE_HEADER,
    NEXT_HEADER,
    PROTOCOL_HEADER,
    REQUEST_ID_HEADER,
)
"""Headers of answers that a page may read."""

PREFLIGHT_S = 600


def check_origin(origin: str) -> str:
    """The origin, as a browser writes it.

    Raises:
        ValueError: It is none: a pattern, a path, or a default port that a browser leaves out.
    """
    parts = urlsplit(origin)
    is_written_so = origin == f"{parts.scheme}://{parts.netloc}" and origin == origin.lower() and origin.isascii()
    default_port = {"http": 80, "https": 443}.get(parts.scheme)
    host = parts.hostname or ""
    if not is_written_so or default_port is None or "@" in parts.netloc or not host or "*" in host:
        raise ValueError(f"{origin!r} is no origin: write https://console.example.com, without a path, and no *")
    if parts.port == default_port or parts.netloc.endswith(":"):
        raise ValueError(f"{origin!r}: browsers leave the port {default_port} out, so leave it out here")
    return origin


def allow(app: FastAPI, origins: Sequence[str]) -> None:
    """Lets pages of exactly these origins call the app. Cookies are never sent: a page needs a key of its user."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=("GET", "PUT", "POST", "PATCH", "DELETE"),
            allow_headers=("*",),  # those that the page asks for: it is trusted, and none of ours is secret
            expose_headers=EXPOSED,
            max_age=PREFLIGHT_S,
        )

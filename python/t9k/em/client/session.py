"""One connection pool to one server: requests, repeated where that is safe."""

from __future__ import annotations

import io
import logging
import os
import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, ClassVar, cast
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase

from t9k.em.client.problems import Problem
from t9k.em.errors import InvalidInputError, TransferError
from t9k.protocol import API_PREFIX, HISTORY_HEADER, MAX_JSON_BYTES, PROTOCOL_HEADER, PROTOCOL_VERSION

CONNECT_TIMEOUT_S = 10.0
"""Also the longest that a block of `SEND_BYTES` may take on its way."""

READ_TIMEOUT_S = 60.0
"""Longest silence of a server that owes an answer."""

SEND_BYTES = 128 << 10
"""Bodies are sent in blocks, because a socket's timeout counts for each block and not for the whole."""

ATTEMPTS = 7
"""Of a request that may be repeated; with the pauses between them a server has about 20 s to come back."""

FIRST_PAUSE_S = 0.3
"""Before the second attempt; it doubles, with jitter."""

LONGEST_PAUSE_S = 10.0
LONGEST_RETRY_AFTER_S = 60.0
CONNECTIONS = 16
"""Kept open for each session at most."""

_READ_BYTES = 256 << 10
_RETRIED_STATUSES = frozenset({408, 429, 502, 503, 504})
_HISTORY = re.compile(r"[A-Za-z0-9]{1,64}")
_KEY = re.compile(r"[\x21-\x7e]{1,512}")
_CONNECTION = re.compile(r"^HTTPS?Connection(Pool)?\([^)]*\): ")
_log = logging.getLogger("t9k.em.client")


@dataclass(frozen=True)
class Answer:
    """A response that was read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            TransferError: It is none.
        """
        import json

        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise TransferError(
                "the server answered with something that is not JSON", hint="is the address that of an AIStore?"
            ) from None

    def problem(self) -> Problem:
        """The body as a problem document."""
        return Problem(self.status, bytes(self.body))


class _Key(AuthBase):
    """The API key; its `repr` hides it. As `auth` it also keeps requests from sending one of `~/.netrc` instead."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.text}"
        return request

    def __repr__(self) -> str:
        return "_Key(***)"


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        if not str(getattr(urllib3, "__version__", "")).startswith("1."):  # those cannot be told, and send short blocks
            kwargs["blocksize"] = SEND_BYTES
        super().init_poolmanager(*args, **kwargs)


class Body:
    """The body of a request in blocks that are not copied, each of which tells how much has gone before it."""

    def __init__(self, data: memoryview, passed: Callable[[int], None]) -> None:
        """Of these bytes, which must stay as they are."""
        self._data = data
        self._passed = passed

    def __len__(self) -> int:
        """Its bytes."""
        return len(self._data)

    def __iter__(self) -> Iterator[memoryview]:
        """All blocks from the first on. Raises what `passed` raises, which ends the request."""
        for start in range(0, len(self._data), SEND_BYTES):
            self._passed(start)
            yield self._data[start : start + SEND_BYTES]
        self._passed(len(self._data))


@dataclass(frozen=True)
class Request:
    """What one attempt of `Session.request` sends, and how it reads the answer; the fields are those of that call."""

    method: str
    path: str
    params: Mapping[str, str | int] | None
    body: bytes | IO[bytes] | Body | None
    headers: Mapping[str, str]
    max_bytes: int
    read_timeout_s: float | None
    on_read: Callable[[int], None] | None
    into: IO[bytes] | None


@dataclass
class Session:
    """A server and who is calling. Thread-safe; a forked child opens connections of its own.

    Attributes:
        url: Of the server, without `API_PREFIX`.
        user: Who the key belongs to; set by the login.
        read_timeout_s: Longest silence of the server.
        attempts: Of a request that may be repeated.
        history: Of the server's database, on which all requests of this session rely: a server with another one, which
            was restored from a backup, refuses them. Empty if they rely on none.
        seen_history: The one that the last answer named.
        on_body: Told the bytes of each request's body, once however often it is sent.
        is_dry: Whether requests that change something do not reach the server.
    """

    is_dry: ClassVar[bool] = False
    url: str
    _auth: _Key | None = field(default=None, repr=False)
    user: str = ""
    read_timeout_s: float = READ_TIMEOUT_S
    attempts: int = ATTEMPTS
    history: str = ""
    seen_history: str = ""
    on_body: Callable[[int], None] | None = field(default=None, repr=False)
    _pool: requests.Session | None = field(default=None, init=False, repr=False)
    _pid: int = field(default=0, init=False, repr=False)

    @classmethod
    def open(cls, url: str, api_key: str | None, read_timeout_s: float | None = None) -> Session:
        """A session that has not sent anything yet.

        Raises:
            InvalidInputError: The address or the key has no possible form; the key is not in the message.
        """
        if api_key is not None and not (isinstance(api_key, str) and _KEY.fullmatch(api_key)):
            raise InvalidInputError("the API key has characters that no key has", hint="copy it again, without spaces")
        auth = _Key(api_key) if api_key else None
        return cls(_checked_url(url), auth, read_timeout_s=read_timeout_s or READ_TIMEOUT_S)

    @property
    def api_key(self) -> str:
        """The key, for a process that goes on with this session; never for a message."""
        return self._auth.text if self._auth is not None else ""

    def close(self) -> None:
        """Closes the connections; the next request opens new ones."""
        pool, self._pool = self._pool, None
        if pool is not None and self._pid == os.getpid():
            pool.close()

    def request(
        self,
        method: str,
        path: str,
        what: str,
        *,
        params: Mapping[str, str | int] | None = None,
        json: Mapping[str, Any] | None = None,
        body: bytes | IO[bytes] | Body | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool | None = None,
        accept: Collection[int] = (),
        max_bytes: int = MAX_JSON_BYTES,
        read_timeout_s: float | None = None,
        on_read: Callable[[int], None] | None = None,
        into: IO[bytes] | None = None,
    ) -> Answer:
        """Sends one request and reads its response.

        Args:
            method: Of HTTP.
            path: Below `API_PREFIX`.
            what: What cannot be done if this fails, for the error: ``cannot upload …``.
            params: The query.
            json: A body, or
            body: bytes, a file that can seek, or a `Body`.
            headers: More headers.
            repeat: Whether the request may be sent twice; by default GET, PUT and DELETE may.
            accept: Statuses that the caller handles, besides those of success.
            max_bytes: A longer response is refused.
            read_timeout_s: Longer than the session's, for what takes the server long.
            on_read: Told the bytes of the response that have come, from 0 for each attempt.
            into: A file that gets the body of a success, which may be longer than memory.

        Raises:
            TransferError: The server cannot be reached, does not answer or answers with garbage.
            EmError: What the server's problem document says.
        """
        import json as json_module

        sent_headers = dict(headers or {})
        if json is not None:
            body = json_module.dumps(json, ensure_ascii=False, separators=(",", ":")).encode()
            sent_headers["Content-Type"] = "application/json"
        if self.on_body is not None and isinstance(body, bytes):
            self.on_body(len(body))
        if repeat is None:
            repeat = method in ("GET", "HEAD", "PUT", "DELETE")

        one = Request(method, path, params, body, sent_headers, max_bytes, read_timeout_s, on_read, into)
        answer = self._repeated(one, what, self.attempts if repeat else 1)
        if answer.status < 300 or answer.status in accept:
            return answer
        if answer.status < 400:
            target = answer.headers.get("Location", "")[:200]
            raise TransferError(f"{what}: the server at {self.url} redirects to {target!r}", hint="log in there")
        raise answer.problem().error(what)

    def _repeated(self, request: Request, what: str, attempts: int) -> Answer:
        for attempt in range(1, attempts + 1):
            retry_after_s = 0.0
            try:
                answer = self._send(request)
                if answer.status not in _RETRIED_STATUSES or attempt == attempts:
                    return answer
                retry_after_s = _retry_after_s(answer.headers.get("Retry-After", ""))
                reason = f"status {answer.status}"
            except requests.exceptions.SSLError as error:
                raise _unreachable(self.url, what, error, "REQUESTS_CA_BUNDLE names more authorities") from None
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                reason = type(error).__name__
                if attempt == attempts:
                    raise _unreachable(self.url, what, error, "is the server running, and reachable?") from None
            except requests.RequestException as error:
                raise _unreachable(self.url, what, error, None) from None
            pause_s = min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
            _log.debug("%s: %s; attempt %d of %d follows", what, reason, attempt + 1, attempts)
            time.sleep(max(pause_s, retry_after_s))
        raise AssertionError("the last attempt returns or raises")

    def _send(self, request: Request) -> Answer:
        body, into = request.body, request.into
        if isinstance(body, bytes):
            stream: IO[bytes] | Body | None = io.BytesIO(body)
        else:
            stream = body
            if stream is not None and not isinstance(stream, Body):
                stream.seek(0)
        more = {HISTORY_HEADER: self.history} if self.history else {}
        with self._connections().request(
            request.method,
            self.url + API_PREFIX + request.path,
            params=dict(request.params) if request.params else None,
            data=cast(Any, stream),
            headers={**request.headers, **more},
            timeout=(CONNECT_TIMEOUT_S, max(self.read_timeout_s, request.read_timeout_s or 0)),
            allow_redirects=False,
            stream=True,
        ) as response:
            if _HISTORY.fullmatch(named := response.headers.get(HISTORY_HEADER, "")):
                self.seen_history = named
            max_bytes = request.max_bytes if response.status_code < 300 else MAX_JSON_BYTES
            blocks = _blocks(response, max_bytes, request.on_read)
            if into is None or response.status_code >= 300:
                whole = bytearray()
                for block in blocks:
                    whole += block
                return Answer(response.status_code, response.headers, whole)
            into.seek(0)
            into.truncate()
            into.writelines(blocks)
            return Answer(response.status_code, response.headers, b"")

    def _connections(self) -> requests.Session:
        if self._pool is None or self._pid != os.getpid():
            pool = requests.Session()
            pool.headers.clear()
            # Nothing is compressed on the way: packs are already, and what is small does not pay.
            pool.headers.update({"User-Agent": "t9k-em", "Accept-Encoding": "identity"})
            pool.headers[PROTOCOL_HEADER] = str(PROTOCOL_VERSION)
            pool.auth = self._auth or _no_auth
            adapter = _Adapter(pool_maxsize=CONNECTIONS)
            pool.mount("http://", adapter)
            pool.mount("https://", adapter)
            self._pool, self._pid = pool, os.getpid()
        return self._pool


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _checked_url(url: str) -> str:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInputError(f"{url!r} is not the address of a server", hint="for example https://host:8765")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InvalidInputError("the address of a server has only scheme, host, port and path")
    return url.rstrip("/").removesuffix(API_PREFIX)


def _blocks(response: requests.Response, max_bytes: int, on_read: Callable[[int], None] | None) -> Iterator[bytes]:
    declared = response.headers.get("Content-Length", "")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise TransferError(f"the server answers with {declared} bytes where at most {max_bytes} are expected")
    read_bytes = 0
    response.raw.enforce_content_length = True  # urllib3 1.26 takes a body that is cut off for whole
    for block in response.iter_content(_READ_BYTES):
        read_bytes += len(block)
        if on_read is not None:
            on_read(read_bytes)
        if read_bytes > max_bytes:
            raise TransferError(f"the server answers with more than the {max_bytes} bytes that are expected")
        yield block


def _retry_after_s(header: str) -> float:
    return min(float(header), LONGEST_RETRY_AFTER_S) if header.isdecimal() else 0.0


def _unreachable(url: str, what: str, error: Exception, hint: str | None) -> TransferError:
    return TransferError(f"{what}: no answer from {url}: {_reason(error)}", hint=hint)


def _reason(error: BaseException) -> str:
    """The innermost cause: requests wraps what happened several times."""
    while True:
        inner = getattr(error, "reason", None) or next((arg for arg in error.args if isinstance(arg, Exception)), None)
        if not isinstance(inner, BaseException) or inner is error:
            text = str(error).rpartition("Failed to establish a new connection: ")[2].rpartition(">: ")[2]
            return _CONNECTION.sub("", text) or type(error).__name__
        error = inner

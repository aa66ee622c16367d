"""What a server refuses, and servers that cannot be reached, as errors of `t9k.em.errors`."""

from __future__ import annotations

import json
from typing import Any

import requests

from t9k.em.errors import (
    AuthError,
    ConflictError,
    EmError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    StoreError,
    TransferError,
)

MAX_DETAIL_CHARS = 2000
"""A longer message of a server is cut."""

_BY_KIND: dict[str, type[EmError]] = {
    error.kind: error
    for error in (InvalidInputError, NotFoundError, ConflictError, IntegrityError, StoreError, TransferError, AuthError)
}
_BY_STATUS = {401: AuthError, 403: AuthError, 404: NotFoundError, 409: ConflictError, 412: ConflictError}


class LoginRefusedError(AuthError, requests.HTTPError):
    """The server does not take the API key."""

    response = None
    request = None


class LoginFailedError(TransferError, requests.HTTPError):
    """The server cannot be reached, or is no AIStore."""

    response = None
    request = None


class Problem:
    """A response that is not a success.

    Attributes:
        status: Of HTTP.
        kind: As the server calls it, or '' if the response is no problem document, for example a proxy's.
        members: The document.
    """

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            document = None
        self.members: dict[str, Any] = document if isinstance(document, dict) else {}
        kind = self.members.get("kind")
        self.kind = kind if isinstance(kind, str) else ""

    def error(self, what: str) -> EmError:
        """The error of what could not be done: ``cannot upload …``."""
        detail = self._text("detail") or f"the server answered with status {self.status}"
        hint = self._text("hint")
        if request_id := self._text("request_id"):
            detail += f" [request {request_id}]"
        kind = _BY_KIND.get(self.kind) or _BY_STATUS.get(self.status)
        if kind is None:
            kind = InvalidInputError if self.kind == "" and self.status in (400, 413, 422) else TransferError
        return kind(f"{what}: {detail}", hint=hint)

    def _text(self, member: str) -> str | None:
        value = self.members.get(member)
        # The text comes from outside and goes to terminals.
        return (
            "".join(char if char.isprintable() else "�" for char in value)[:MAX_DETAIL_CHARS]
            if isinstance(value, str) and value
            else None
        )

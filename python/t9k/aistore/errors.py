"""How rules refuse: with a kind of `t9k.protocol.KINDS`, never with HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from t9k.protocol import KINDS


class Refusal(Exception):
    """A request that cannot be done, and why.

    Attributes:
        kind: One of `t9k.protocol.KINDS`.
        message: What happened to what.
        hint: What the caller can do about it, or None.
        status: HTTP status, where the kind's usual one says too little.
        members: What a program needs to know beside that; members of `api.problems.Problem`.
    """

    members: Mapping[str, object] = MappingProxyType({})

    def __init__(self, kind: str, message: str, *, hint: str | None = None, status: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint
        self.status = status or KINDS[kind]


def invalid(message: str, hint: str | None = None) -> Refusal:
    """The caller asked for something that cannot be done."""
    return Refusal("invalid_input", message, hint=hint)


def not_found(message: str, hint: str | None = None) -> Refusal:
    """There is nothing there, or nothing that the caller may know of."""
    return Refusal("not_found", message, hint=hint)


def conflict(message: str, hint: str | None = None) -> Refusal:
    """Somebody else has changed, or holds, the same thing."""
    return Refusal("conflict", message, hint=hint)


def forbidden(message: str, hint: str | None = None) -> Refusal:
    """The caller is known and may not."""
    return Refusal("auth", message, hint=hint)


def unauthenticated(message: str = "no valid API key", hint: str | None = None) -> Refusal:
    """Who is calling is not known."""
    return Refusal("auth", message, hint=hint or "send `Authorization: Bearer em_pat_…`", status=401)


def integrity(message: str, hint: str | None = None) -> Refusal:
    """Bytes are not those of their digest."""
    return Refusal("integrity", message, hint=hint)

"""The errors of `t9k.em`, grouped by what a handler does.

    EmError(RuntimeError)
    ├── InvalidInputError(ValueError)     a bad path, name or value: change the call
    ├── NotFoundError(LookupError)        nothing at that path
    ├── ConflictError                     somebody else changed the same thing: try again
    ├── IntegrityError                    bytes do not match their digest
    ├── StoreError(OSError)               disk full, no permission, input/output error
    ├── TransferError                     the server could not be reached or refused
    └── AuthError(PermissionError)        not logged in, or not allowed

Each is also the builtin that scripts catch already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class EmError(RuntimeError):
    """Base of all errors of this package.

    Attributes:
        kind: Stable name of the group, the same in the engine and on the wire.
        hint: What can be done about it, or None.
    """

    kind = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(f"{message} (hint: {hint})" if hint else message)
        self.hint = hint


class InvalidInputError(EmError, ValueError):
    """The caller asked for something that cannot be done."""

    kind = "invalid_input"


class NotFoundError(EmError, LookupError):
    """There is nothing at that path."""

    kind = "not_found"


class ConflictError(EmError):
    """Somebody else changed the same thing."""

    kind = "conflict"


class IntegrityError(EmError):
    """Bytes are not those of their digest."""

    kind = "integrity"


class StoreError(EmError, OSError):
    """The operating system refused: disk full, no permission, input/output error."""

    kind = "store"


class TransferError(EmError):
    """The server could not be reached, or refused."""

    kind = "transfer"


class AuthError(EmError, PermissionError):
    """Not logged in, or not allowed."""

    kind = "auth"


ENGINE_ERRORS = {
    error.kind: error for error in (InvalidInputError, NotFoundError, ConflictError, IntegrityError, StoreError)
}


@contextmanager
def translated() -> Iterator[None]:
    """Raise the engine's errors as those of this module."""
    from t9k.em import _engine

    try:
        yield
    except _engine.EngineError as error:
        translation = ENGINE_ERRORS[error.kind](error.message, hint=error.hint)
        if isinstance(translation, StoreError):
            translation.errno = error.errno
        raise translation from None

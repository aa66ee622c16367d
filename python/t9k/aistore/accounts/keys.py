"""API keys: ``em_pat_``, 160 random bits in base 62, and a checksum that tells a mistyped key from a wrong one.

The database keeps the SHA-256 of a key, and its first characters to find the row by. 160 random bits need no slow hash.
"""

from __future__ import annotations

import hashlib
import secrets
import string
import zlib
from dataclasses import dataclass

KEY_PREFIX = "em_pat_"
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_DIGITS, _CHECKSUM_DIGITS = 27, 6  # 62**27 > 2**160, 62**6 > 2**32
_KEY_CHARS = len(KEY_PREFIX) + _RANDOM_DIGITS + _CHECKSUM_DIGITS
_LOOKUP_CHARS = len(KEY_PREFIX) + 10  # 59 bits: no two keys share them in practice, and the column is unique

SCOPES = ("read", "write", "admin")


@dataclass(frozen=True)
class NewKey:
    """A key that was just made. Only its owner sees `text`, once."""

    text: str

    @property
    def prefix(self) -> str:
        """What finds the key's row."""
        return lookup_prefix(self.text)

    @property
    def hash(self) -> bytes:
        """What the database keeps."""
        return hash_key(self.text)

    def __repr__(self) -> str:
        return f"NewKey({self.prefix}…)"


def make_key() -> NewKey:
    """A key from the system's randomness."""
    body = _base62(secrets.randbits(160), _RANDOM_DIGITS)
    return NewKey(KEY_PREFIX + body + _checksum(body))


def is_well_formed(text: str) -> bool:
    """Whether the text can be a key at all: its form and checksum are right."""
    if len(text) != _KEY_CHARS or not text.startswith(KEY_PREFIX) or not text.isascii():
        return False
    body, checksum = text[len(KEY_PREFIX) : -_CHECKSUM_DIGITS], text[-_CHECKSUM_DIGITS:]
    return _checksum(body) == checksum


def lookup_prefix(text: str) -> str:
    """The part of a key that is stored as it is."""
    return text[:_LOOKUP_CHARS]


def hash_key(text: str) -> bytes:
    """SHA-256 of a key."""
    return hashlib.sha256(text.encode()).digest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_DIGITS)


def _base62(number: int, digits: int) -> str:
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, 62)
        text = _DIGITS[digit] + text
    return text

"""What the server uses of the Rust engine: the one place where it reaches into the client's package."""

from __future__ import annotations

from t9k.em._engine import (
    EngineError,
    ObjectHasher,
    PackCopier,
    digest,
    manifest_objects,
    parse_chunk_table,
    verify_pack,
)

__all__ = [
    "EngineError",
    "ObjectHasher",
    "PackCopier",
    "digest",
    "manifest_objects",
    "parse_chunk_table",
    "verify_pack",
]

"""What both sides read of a manifest without the engine: how many entries its beginning announces."""

from __future__ import annotations

import struct

_HEAD = struct.Struct("<8sIQ")


def entry_count(manifest: bytes | memoryview) -> int | None:
    """Entries that a manifest, or its first bytes, says it has; None if it is too short to say."""
    if len(manifest) < _HEAD.size:
        return None
    count: int = _HEAD.unpack_from(manifest)[2]
    return count

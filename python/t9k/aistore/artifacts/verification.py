"""Hashing new objects whole, from the chunks that are stored: only then `plan` calls them known."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from t9k.aistore import engine
from t9k.aistore.blobs.store import BlobStore
from t9k.aistore.clock import now_us
from t9k.aistore.db import Database, objects

log = logging.getLogger("aistore.artifacts")

CLAIM_US = 600_000_000
"""A claim that was not renewed for so long is somebody's who died."""

READ_BYTES = 8 << 20
"""Most bytes of a pack that are read at once; records that lie behind one another come together."""

_PLACES = 5000


def check_objects(database: Database, blobs: BlobStore, is_stopping: Callable[[], bool] = lambda: False) -> int:
    """Hashes all objects that wait for it; answers how many it has judged.

    Several processes share the work. One that dies leaves its object to the others after ten minutes. An object whose
    stored chunks cannot be read is no lie of its client: it is logged and tried again.
    """
    judged = 0
    while not is_stopping():
        now = now_us()
        claimed = database.write(objects.claim, now, now - CLAIM_US)
        if claimed is None:
            break
        try:
            is_right = _is_right(database, blobs, claimed, is_stopping)
        except (OSError, engine.EngineError) as error:
            log.error("the chunks of object %s cannot be read: %s", bytes(claimed.digest).hex(), error)
            continue
        if is_right is None:
            database.write(objects.claim_again, claimed.id, 0)
            break
        if not is_right:
            log.warning("object %s is not what its chunk table says", bytes(claimed.digest).hex())
        database.write(objects.judge, claimed.id, is_right=is_right)
        judged += 1
    return judged


def _is_right(database: Database, blobs: BlobStore, claimed: Any, is_stopping: Callable[[], bool]) -> bool | None:
    """Whether an object's chunks are its bytes; None if the server stops meanwhile."""
    hasher = engine.ObjectHasher()
    start = 0
    while places := database.read(objects.places, claimed.id, start, _PLACES):
        for run in runs(places):
            if is_stopping():
                return None
            hasher.push_records(blobs.get(run.blob_key, run.start, run.end - run.start), run.offsets)
        start += len(places)
        database.write(objects.claim_again, claimed.id, now_us())
    return bool(hasher.size == claimed.size_bytes and hasher.digest() == bytes(claimed.digest))


@dataclass
class Run:
    """Records of a pack that lie behind one another, in the order of the object."""

    blob_key: str
    start: int
    end: int
    offsets: list[int]


def runs(places: list[Any]) -> Iterator[Run]:
    run: Run | None = None
    for place in places:
        end = place.offset + place.length
        if (
            run is not None
            and run.blob_key == place.blob_key
            and run.end == place.offset
            and end - run.start <= READ_BYTES
        ):
            run.end = end
            run.offsets.append(place.offset - run.start)
            continue
        if run is not None:
            yield run
        run = Run(place.blob_key, place.offset, end, [0])
    if run is not None:
        yield run

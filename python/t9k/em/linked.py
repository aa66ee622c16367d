"""How the files of an artifact came from the store to its directory."""

from __future__ import annotations

import os
from typing import TypedDict

from t9k.em.progress import size_text

_has_told_of_copies = False


class Linked(TypedDict):
    """Files by the way in which they came to their paths, and whether some were copied for want of another."""

    reflinks: int
    hardlinks: int
    copies: int
    copied_bytes: int
    fell_to_copies: bool


class Added(TypedDict):
    """What an add did."""

    files: int
    bytes: int
    new_objects: int
    new_bytes: int
    reserved_on_windows: int
    linked: Linked


def tell(linked: Linked, directory: str, store: str) -> None:
    """Logs how files came to a directory; warns of copies for want of links, once in a process."""
    global _has_told_of_copies
    import logging

    logger = logging.getLogger("t9k.em")
    copied = size_text(linked["copied_bytes"])
    counts = linked["reflinks"], linked["hardlinks"], linked["copies"]
    logger.info("%s: %d files reflinked, %d hardlinked, %d copied (%s)", directory, *counts, copied)
    if linked["fell_to_copies"] and not _has_told_of_copies:
        _has_told_of_copies = True
        logger.warning(
            "files are copied to %s and take their room twice: its file system allows no links from the store %s "
            "(hint: put EM_STORE_DIR and EM_ARTIFACT_PARENT_DIR on one, or set EM_LINK_MODE=copy if that is meant)",
            directory,
            os.path.abspath(store),
        )

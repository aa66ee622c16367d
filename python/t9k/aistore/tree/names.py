"""Names of nodes and paths of them: Unicode NFC, no slash, no control character, at most 255 bytes."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from t9k.aistore.errors import invalid
from t9k.protocol import (
    MAX_DEPTH,
    MAX_DESCRIPTION_BYTES,
    MAX_LABEL_BYTES,
    MAX_LABELS,
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
)

MAX_FOLDER_DEPTH = MAX_DEPTH - 1
MAX_FOLDER_PATH_BYTES = MAX_PATH_BYTES - MAX_NAME_BYTES - 1
"""A folder lies where any name still fits into it."""

_REFUSED_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")  # controls, lone surrogates, line and paragraph separators
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def check_name(name: str) -> str:
    """The name in NFC.

    Raises:
        Refusal: It cannot name a node (`invalid_input`).
    """
    name = unicodedata.normalize("NFC", name)
    if any(unicodedata.category(char) in _REFUSED_CATEGORIES or char in _BIDI_CONTROLS for char in name):
        raise invalid(f"the name {name[:80]!r} has a control character")
    if name in ("", ".", "..") or "/" in name or name != name.strip():
        raise invalid(f"{name[:80]!r} cannot name a node", hint="use no slash, no . or .., and no space at either end")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise invalid(f"the name {name[:80]!r}… has more than {MAX_NAME_BYTES} bytes")
    return name


def split_path(path: str) -> list[str]:
    """The names of an absolute path ``/user/folder/…``.

    Raises:
        Refusal: It is not absolute, too long or deep, or has a bad name (`invalid_input`).
    """
    if not path.startswith("/"):
        raise invalid(f"the path {path[:80]!r} does not begin with a slash")
    if len(path.encode(errors="surrogatepass")) > MAX_PATH_BYTES:
        raise invalid(f"the path {path[:80]!r}… has more than {MAX_PATH_BYTES} bytes")
    names = [check_name(name) for name in path[1:].removesuffix("/").split("/")]
    if len(names) > MAX_DEPTH:
        raise invalid(f"the path {path[:80]!r}… is deeper than {MAX_DEPTH} nodes")
    return names


def join_path(names: list[str]) -> str:
    """The absolute path of these names, the user's first."""
    return "/" + "/".join(names)


def check_fits(names: list[str], *, is_folder: bool, more_depth: int = 0, more_bytes: int = 0) -> None:
    """Refuses a node at the path of these names if it, or a folder below it, would lie too deep.

    Args:
        names: Of the node and those above it, the user's first.
        is_folder: Whether something can lie in it.
        more_depth: How deep folders lie below it.
        more_bytes: What their names add to its path.

    Raises:
        Refusal: It does not fit (`invalid_input`).
    """
    depth, size_bytes = len(names) + more_depth, len(join_path(names).encode()) + more_bytes
    if depth > (MAX_FOLDER_DEPTH if is_folder else MAX_DEPTH):
        raise invalid(f"{names[-1]!r} would lie too deep: paths have at most {MAX_DEPTH} names")
    if size_bytes > (MAX_FOLDER_PATH_BYTES if is_folder else MAX_PATH_BYTES):
        raise invalid(f"the path of {names[-1]!r} would be too long: paths have at most {MAX_PATH_BYTES} bytes")


def check_labels(labels: Sequence[str]) -> list[str]:
    """The labels in NFC, each once, in order.

    Raises:
        Refusal: They are too many, or one cannot be one (`invalid_input`).
    """
    checked = list(dict.fromkeys(unicodedata.normalize("NFC", label) for label in labels))
    if len(checked) > MAX_LABELS:
        raise invalid(f"a node has at most {MAX_LABELS} labels")
    for label in checked:
        if not label or any(unicodedata.category(char) in _REFUSED_CATEGORIES for char in label):
            raise invalid(f"{label[:80]!r} cannot be a label", hint="use text without control characters")
        if len(label.encode()) > MAX_LABEL_BYTES:
            raise invalid(f"the label {label[:80]!r}… has more than {MAX_LABEL_BYTES} bytes")
    return checked


def check_description(description: str) -> str:
    """The description, which may have several lines.

    Raises:
        Refusal: It is too long or no text (`invalid_input`).
    """
    if "\0" in description or any(unicodedata.category(char) == "Cs" for char in description):
        raise invalid("the description has a character that is no text")
    if len(description.encode()) > MAX_DESCRIPTION_BYTES:
        raise invalid(f"the description has more than {MAX_DESCRIPTION_BYTES} bytes")
    return description

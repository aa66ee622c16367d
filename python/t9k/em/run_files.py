"""The files of a Run: names, atomic writes, and YAML read with caps."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from t9k.em.errors import InvalidInputError, NotFoundError, StoreError

MAX_YAML_BYTES = 16 << 20
"""A hand-written or small YAML file that is larger is refused unread."""

MAX_YAML_NODES = 200_000
"""A node takes about 700 bytes of memory until it is a value; a long list of packages has 10,000."""

MAX_YAML_DEPTH = 100
"""Deeper nesting would end in the interpreter's or the C library's stack."""

MAX_NUMBER_CHARS = 4300
"""Python's own limit of digits; YAML's numbers to the base of 60 take quadratic time: 2 MB of them 220 s."""

MAX_NAME_BYTES = 200
"""Leaves room for the date and the random letters in a file name of 255 bytes."""

_NUMBER_CHARS = frozenset("0123456789abcdefxoABCDEF_:.+-")
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_RANDOM = random.SystemRandom()  # scripts seed the shared generator, and forks inherit it


def is_file_name(text: str, max_bytes: int) -> bool:
    """Tells whether a text can be a part of a path: nothing hidden, no slashes, no direction marks.

    The two joiners that emoji and Persian and Indic scripts are written with
    are unprintable for Python, and allowed.
    """
    visible = text.replace("\u200c", "").replace("\u200d", "")
    is_plain = visible.isprintable() and "/" not in text and "\\" not in text
    return bool(visible) and visible[0] != "." and is_plain and len(text.encode()) <= max_bytes


def path_text(path: object, *, hint: str | None = None) -> str:
    """Returns a local path, given as text or as a `pathlib.Path`, as text.

    Raises:
        InvalidInputError: It is neither.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise InvalidInputError(f"a path is text or a pathlib.Path, not a {type(path).__name__}", hint=hint)
    return os.fsdecode(path)


def check_name(name: object) -> str:
    """Returns the name of a Run or an Artifact if it can name a directory.

    Raises:
        InvalidInputError: It is not text, too long, or has slashes or
            unprintable characters, or starts with a dot.
    """
    if not isinstance(name, str):
        raise InvalidInputError(f"name must be text, not {type(name).__name__}")
    if not is_file_name(name, MAX_NAME_BYTES):
        raise InvalidInputError(
            f"name {name[:80]!r} cannot name a directory: use 1 to {MAX_NAME_BYTES} bytes of "
            "printable text without slashes that does not start with a dot"
        )
    return name


def make_run_dir(parent: str, name: str) -> tuple[str, str]:
    """Creates a directory that no other process has, and returns its path and name.

    The name is ``<name>_<YYMMDD>_<HHMMSS>_<6 letters or digits>``. The
    exclusive ``mkdir`` decides between processes that drew the same letters.

    Raises:
        StoreError: The directory cannot be created.
    """
    stamp = time.strftime("%y%m%d_%H%M%S")
    try:
        os.makedirs(parent, exist_ok=True)
        for _ in range(100):
            alternative_name = f"{name}_{stamp}_{''.join(_RANDOM.choice(_LETTERS) for _ in range(6))}"
            path = os.path.join(parent, alternative_name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path)
                return path, alternative_name
    except OSError as error:
        raise StoreError(f"cannot create a run directory in {parent}: {error.strerror}") from error
    raise StoreError(f"cannot find a free run directory name in {parent}")


def replace_file(path: str, text: str, is_wanted: Callable[[], bool] | None = None) -> os.stat_result | None:
    """Replaces a file's contents at once: readers see the old or the new file.

    Args:
        path: The file.
        text: What it will have.
        is_wanted: Asked at the last moment; by default it is.

    Returns:
        The state of the new file; None if it was not wanted.

    Raises:
        StoreError: The file cannot be written; the old one is unchanged.
    """
    temporary = f"{path}.tmp-{os.getpid()}-{threading.get_ident()}-{_RANDOM.getrandbits(32):08x}"
    try:
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                state = os.fstat(file.fileno())
            if is_wanted is not None and not is_wanted():
                os.unlink(temporary)
                return None
            os.replace(temporary, path)
            return state
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from error


def write_yaml(
    path: str, value: Mapping[str, Any], is_wanted: Callable[[], bool] | None = None
) -> os.stat_result | None:
    """Replaces a file by the value's YAML, as `replace_file` does."""
    import yaml  # not at import time: it costs more than everything else here

    # The C emitter, where the package has it, is ten times as fast on a list of packages.
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return replace_file(path, yaml.dump(dict(value), Dumper=dumper, sort_keys=False, allow_unicode=True), is_wanted)


def read_yaml_node(path: str) -> Any:
    """Reads one YAML document as nodes, which know their lines.

    Returns:
        The root node, or None for an empty file.

    Raises:
        NotFoundError: There is no such file.
        InvalidInputError: Too large, not YAML, or hostile.
        StoreError: It cannot be read.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    return _parse_node(data, path)


def _parse_node(data: bytes, path: str) -> Any:
    import yaml

    if len(data) > MAX_YAML_BYTES:
        raise InvalidInputError(f"{path} is larger than {MAX_YAML_BYTES} bytes")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        _check_events(path, yaml.parse(data, Loader=loader))
        return yaml.compose(data, Loader=loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InvalidInputError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    except (RecursionError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: not valid YAML: {error}") from error


def _check_events(path: str, events: Iterable[Any]) -> None:
    """Refuses what would take much memory or stack, while it is still a stream."""
    import yaml

    depth = 0
    for count, event in enumerate(events):
        if isinstance(event, yaml.AliasEvent):  # how a small file explodes; our own files have none
            raise InvalidInputError(f"{path}:{_line(event.start_mark)}: alias *{event.anchor} is not supported")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_YAML_DEPTH:
            raise InvalidInputError(f"{path}:{_line(event.start_mark)}: nested more than {MAX_YAML_DEPTH} levels")
        is_long = isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_NUMBER_CHARS
        if is_long and (event.tag or event.implicit[0]) and set(event.value) <= _NUMBER_CHARS:
            raise InvalidInputError(f"{path}:{_line(event.start_mark)}: number of {len(event.value)} characters")
        if count > MAX_YAML_NODES:
            raise InvalidInputError(f"{path}: more than {MAX_YAML_NODES} keys and values")


def node_value(path: str, node: Any) -> Any:
    """Converts a node to plain values; a tag for a Python object is refused.

    Raises:
        InvalidInputError: The node has a tag that YAML's safe schema lacks.
    """
    import yaml

    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path}:{node.start_mark.line + 1}: {getattr(error, 'problem', error)}") from error
    finally:
        loader.dispose()


def read_yaml(path: str) -> dict[str, Any]:
    """Reads a file that holds a YAML mapping; an empty file is an empty one.

    Raises:
        NotFoundError: There is no such file.
        InvalidInputError: It is too large, hostile, or no mapping.
        StoreError: It cannot be read.
    """
    return _mapping(read_yaml_node(path), path)


def parse_yaml(data: bytes, path: str) -> dict[str, Any]:
    """Reads bytes that hold a YAML mapping, as `read_yaml` does a file's.

    Args:
        data: The bytes.
        path: What they are called in errors.

    Raises:
        InvalidInputError: They are too many, hostile, or no mapping.
    """
    return _mapping(_parse_node(data, path), path)


def _mapping(node: Any, path: str) -> dict[str, Any]:
    if node is None:
        return {}
    value = node_value(path, node)
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: a mapping of keys to values was expected")
    return value


def _line(mark: Any) -> int:
    return int(mark.line) + 1

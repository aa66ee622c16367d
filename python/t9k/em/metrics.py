"""Metrics of a Run: one YAML line per log call, written whole, read back fast.

A metrics file is a YAML list in which every item is one line, ``- {json}``,
of two dicts: ``metrics`` has the values, ``at`` step, epoch and timestamp.
JSON is YAML's flow style with two exceptions, which the encoder takes care
of: NaN and the infinities are ``.nan``, ``.inf`` and ``-.inf``, and a float
with an exponent is written with a dot (``1.0e-05``), because YAML 1.1 reads
``1e-05`` as text.
"""

from __future__ import annotations

import functools
import math
import os
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from t9k.em.errors import InvalidInputError, NotFoundError, StoreError
from t9k.em.run_files import is_file_name

if TYPE_CHECKING:
    from t9k.em._engine import EngineError
    from t9k.em.points import Points

TYPE_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validate": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluate": "test",
    "evaluation": "test",
}
"""The reference's names of the three standard types."""

MAX_FILE_BYTES = 4 << 30
"""A metrics file larger than this is refused before it is read."""

MAX_LINE_BYTES = 16 << 20
"""A longer line is not one that a log call wrote."""

MAX_TYPE_BYTES = 200
"""Leaves room for a suffix within the 255 bytes of a file name."""

MAX_NAME_CHARS = 1000
"""YAML limits a key on one line to 1,024 characters, its escapes included."""

_NON_FINITE = rb'(?<=": )(-?)\.(nan|inf)(?=[,}])'
_JSON_NAMES = {b"nan": b"NaN", b"inf": b"Infinity"}
_BLOCK_BYTES = 1 << 20


@functools.lru_cache(maxsize=4096)
def _quote(name: str) -> str:
    # Quotes and backslashes go as \uXXXX, so that every `"` in a line is one
    # of its structure and the reader can tell `.nan` from a name that has it.
    # Beyond ASCII the text stays itself: YAML does not join surrogate pairs.
    if any("\ud800" <= char <= "\udfff" for char in name):
        raise InvalidInputError(f"metric name {name[:80]!r} is not valid Unicode")
    quoted = "".join(
        char if (char.isprintable() and char not in '"\\') or char > "\uffff" else f"\\u{ord(char):04x}"
        for char in name
    )
    if quoted.startswith(":"):  # would read as the end of a name, behind its own first quote
        quoted = f"\\u003a{quoted[1:]}"
    if not name or len(quoted) > MAX_NAME_CHARS:
        raise InvalidInputError(f"metric name {name[:80]!r} must have 1 to {MAX_NAME_CHARS} characters")
    return f'"{quoted}"'


def canonical_type(name: object) -> str:
    """Returns the type that a name or alias stands for.

    The result names a file: ``/``, NUL, control characters, a leading dot and
    lengths beyond `MAX_TYPE_BYTES` are refused.

    Raises:
        InvalidInputError: The name is not text or cannot name a file.
    """
    if not isinstance(name, str):
        raise InvalidInputError(f"metrics type must be text, not {type(name).__name__}")
    known = TYPE_ALIASES.get(name)
    if known is not None:
        return known
    if not is_file_name(name, MAX_TYPE_BYTES):
        raise InvalidInputError(
            f"metrics type {name[:80]!r} cannot name a file: use 1 to {MAX_TYPE_BYTES} bytes of "
            "printable text without slashes that does not start with a dot"
        )
    return name


def to_number(name: str, value: object) -> int | float:
    """Returns a metric's value as a Python number.

    Accepts Python numbers and whatever holds exactly one number and says so
    the way NumPy, PyTorch, TensorFlow and JAX do (``shape`` with ``item()``
    or ``numpy()``); none of them is imported.

    Raises:
        InvalidInputError: The value is a bool, has several elements or is no
            number. The message names the metric.
    """
    kind = type(value)
    if kind is float or kind is int:
        return value  # type: ignore[return-value]
    if isinstance(value, bool):
        raise InvalidInputError(f"metric {name!r} is a bool; use int(value) to log it as 0 or 1")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    return _array_number(name, value)


def _array_number(name: str, value: Any) -> int | float:
    kind = f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
    shape = getattr(value, "shape", None)
    if shape is None or isinstance(value, type):
        raise InvalidInputError(f"metric {name!r} is a {kind}, not a number")
    try:
        elements = math.prod(int(size) for size in shape)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"metric {name!r} is a {kind} whose shape is not known") from error
    if elements != 1:
        raise InvalidInputError(f"metric {name!r} has {elements} elements (shape {tuple(shape)}), not one")
    try:
        if not hasattr(value, "item"):
            value = value.numpy()  # TensorFlow's eager tensors
        item = value.item()
    except Exception as error:  # a framework's own error, for example of a tensor without data
        raise InvalidInputError(f"metric {name!r} is a {kind} that does not give its value: {error}") from error
    if isinstance(item, bool) or not isinstance(item, int | float):
        raise InvalidInputError(f"metric {name!r} is a {kind} of {type(item).__name__}, not of a number")
    return item


def _number_text(name: str, value: object) -> str:
    if type(value) is not float:
        if type(value) is int:
            return repr(value)
        number = to_number(name, value)
        if isinstance(number, int):
            return repr(number)
        value = number
    text = repr(value)
    if "n" in text:  # nan, inf, -inf
        return text.replace("nan", ".nan").replace("inf", ".inf")
    if "e" in text and "." not in text:
        return text.replace("e", ".0e")
    return text


def _index(name: str, value: object) -> int:
    if type(value) is int:
        return value
    try:
        number = to_number(name, value)
    except InvalidInputError:
        raise InvalidInputError(f"{name} must be an integer, not a {type(value).__name__}") from None
    if not isinstance(number, int):
        raise InvalidInputError(f"{name} must be an integer, not {number!r}")
    return number


def encode_line(metrics: Mapping[str, Any], step: object, epoch: object, timestamp: str) -> bytes:
    """Encodes one log call as one line of a metrics file.

    Args:
        metrics: Name to value; at least one.
        step: Step that the metrics belong to.
        epoch: Epoch that the metrics belong to, or None.
        timestamp: Time of the call, ISO 8601, UTC.

    Raises:
        InvalidInputError: A name, value, step or epoch is of a wrong kind.
    """
    if type(metrics) is not dict and not isinstance(metrics, Mapping):
        raise InvalidInputError(f"metrics must be a dict of names to numbers, not {type(metrics).__name__}")
    # A training logs lines of few shapes, and mostly floats and ints that YAML reads as Python writes them.
    texts = [repr(value) if type(value) is float or type(value) is int else "n" for value in metrics.values()]
    joined = "".join(texts)
    if "n" in joined or "e" in joined:  # another type, nan, inf, an exponent
        texts = [_number_text(name, value) for name, value in metrics.items()]
    if epoch is None:
        return (_shape(tuple(metrics), False) % (*texts, _index("step", step), timestamp)).encode()
    return (_shape(tuple(metrics), True) % (*texts, _index("step", step), _index("epoch", epoch), timestamp)).encode()


@functools.lru_cache(maxsize=64)
def _shape(names: tuple[object, ...], has_epoch: bool) -> str:
    """Returns what lines with these names have in common, with %s for each value."""
    if not names:
        raise InvalidInputError("metrics is empty; log at least one value")
    values = []
    for name in names:
        if not isinstance(name, str):
            raise InvalidInputError(f"metric name {name!r} is a {type(name).__name__}, not text")
        values.append(f"{_quote(name)}: ".replace("%", "%%") + "%s")
    at = '"step": %s, "epoch": %s' if has_epoch else '"step": %s'
    return f'- {{"metrics": {{{", ".join(values)}}}, "at": {{{at}, "timestamp": "%s"}}}}\n'


_second: tuple[int, str] = (-1, "")


def timestamp() -> str:
    """Returns the time as a log line has it: UTC with milliseconds, ``2026-01-01T00:00:00.000Z``.

    The text of a second is kept for its other calls: a log call spends 0.3
    instead of 2.2 us on it.
    """
    global _second
    second, milliseconds = divmod(time.time_ns() // 1_000_000, 1000)
    known, text = _second
    if second != known:
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        _second = (second, text)
    return f"{text}.{milliseconds:03d}Z"


class MetricsWriter:
    """Appends lines to one metrics file, each with a single write.

    Safe between threads, and between processes on a local file system,
    because the file is open with O_APPEND. A process that dies leaves at most
    the last line torn. A line that found the disk half full is taken back.

    Attributes:
        append_point: The engine's way from values to the file, for what a
            training logs mostly: called with metrics, step, epoch and the
            time in nanoseconds, it writes the line that `encode_line` would
            make, if names are ASCII and values floats and ints, and tells
            whether it did. Otherwise the caller finds out why not.
    """

    def __init__(self, path: str) -> None:
        """Opens the file, which is created if it is not there.

        Raises:
            StoreError: The file cannot be opened for writing.
        """
        from t9k.em import _engine  # the first log call of a process may take 2 ms more than `create_run`

        self.path = path
        try:
            self._file = _engine.MetricsFile(path)
        except _engine.EngineError as error:
            raise _store_error(f"cannot open the metrics file {path}", error) from None
        self.append_point: Callable[[object, object, object, int], bool] = self._file.append_point

    def append(self, line: bytes) -> None:
        """Writes one encoded line.

        Raises:
            StoreError: The line could not be written and is lost.
        """
        from t9k.em import _engine

        try:
            self._file.append(line)
        except _engine.EngineError as error:
            raise _store_error(f"cannot write to the metrics file {self.path}", error) from None

    def close(self) -> None:
        """Closes the file; later calls do nothing."""
        self._file.close()


def _store_error(failure: str, error: EngineError) -> StoreError:
    raised = StoreError(f"{failure}: {os.strerror(error.errno)}" if error.errno else error.message)
    raised.errno = error.errno
    return raised


class MetricsRead(NamedTuple):
    """What a metrics file holds, and what of it was unreadable."""

    points: Points
    damaged_lines: int
    torn_bytes: int


def read_metrics(path: str, progress: Callable[[int], object] | None = None) -> MetricsRead:
    """Reads a metrics file without a YAML parser.

    Lines that are not of our form are left out and counted. Bytes after the
    last newline are a line that a crash tore; they are left out as well.

    Args:
        path: The file.
        progress: Is told how many more bytes were read.

    Raises:
        NotFoundError: There is no such file.
        StoreError: The file cannot be read, or is larger than `MAX_FILE_BYTES`.
    """
    from t9k.em.points import Points

    points = Points()
    damaged_lines = 0
    rest = b""
    try:
        # A named pipe in its place would wait for a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            known = os.fstat(file.fileno())
            if not stat.S_ISREG(known.st_mode):
                raise StoreError(f"the metrics file {path} is no regular file")
            if known.st_size > MAX_FILE_BYTES:
                raise StoreError(f"the metrics file {path} is larger than {MAX_FILE_BYTES} bytes")
            while block := file.read(_BLOCK_BYTES):
                if progress is not None:
                    progress(len(block))
                end = block.rfind(b"\n") + 1
                if end:
                    damaged_lines += decode_lines(rest + block[:end], points)
                    rest = block[end:]
                    continue
                rest += block
                if len(rest) > MAX_LINE_BYTES:
                    raise StoreError(f"the metrics file {path} has a line of more than {MAX_LINE_BYTES} bytes")
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no metrics file {path}") from error
    except OSError as error:
        raise StoreError(f"cannot read the metrics file {path}: {error.strerror}") from error
    return MetricsRead(points, damaged_lines, len(rest))


class LazyMetrics(Mapping[str, Sequence[dict[str, dict[str, Any]]]]):
    """The points of a run by type; each file is read once, when it is asked for."""

    def __init__(self, folder: str) -> None:
        """Looks for files, and reads none.

        Args:
            folder: The ``metrics`` directory of a run.
        """
        names = sorted(name for name in os.listdir(folder) if name.endswith(".yaml"))
        self._paths = {name.removesuffix(".yaml"): os.path.join(folder, name) for name in names}
        self._read: dict[str, Points] = {}

    def __getitem__(self, kind: str) -> Sequence[dict[str, dict[str, Any]]]:
        if kind not in self._read:
            self._read[kind] = read_metrics(self._paths[kind]).points
        return self._read[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __repr__(self) -> str:
        return f"<metrics of types {', '.join(self._paths)}>"


def repair_torn_line(path: str) -> int:
    """Cuts off the bytes after the last newline, and returns their number.

    Must not be called while a process writes the file.

    Raises:
        StoreError: The file cannot be changed.
    """
    try:
        with open(path, "r+b") as file:
            size_bytes = file.seek(0, os.SEEK_END)
            start = max(0, size_bytes - MAX_LINE_BYTES)
            file.seek(start)
            tail = file.read()
            torn_bytes = len(tail) - (tail.rfind(b"\n") + 1)
            if torn_bytes and (torn_bytes < len(tail) or start == 0):
                file.truncate(size_bytes - torn_bytes)
                return torn_bytes
            return 0
    except OSError as error:
        raise StoreError(f"cannot repair the metrics file {path}: {error.strerror}") from error


def decode_lines(data: bytes, points: Points) -> int:
    """Appends the points of whole lines, and returns how many were damaged."""
    from t9k.em.points import decode_block

    # One call of the JSON parser for many lines; a line at a time is for damaged blocks.
    for _ in range(2):
        first = _decode(data[2 : data.index(b"\n")]) if data.startswith(b"- ") else None
        if _is_point(first) and (block := decode_block(data, first)) is not None:
            points.add(block)
            return 0
        data = re.sub(_NON_FINITE, lambda match: match[1] + _JSON_NAMES[match[2]], data)
    whole = _decode(b"[" + data[2:-1].replace(b"\n- ", b",") + b"]") if data.startswith(b"- ") else None
    if isinstance(whole, list) and len(whole) == data.count(b"\n") and all(map(_is_point, whole)):
        points.add(whole)
        return 0
    damaged_lines = 0
    found = []
    for line in data.split(b"\n"):
        point = _decode(line[2:]) if line.startswith(b"- ") else None
        if _is_point(point):
            found.append(point)
        else:
            damaged_lines += bool(line.strip())
    points.add(found)
    return damaged_lines


def _decode(text: bytes) -> Any:
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_point(value: Any) -> TypeGuard[dict[str, dict[str, Any]]]:
    return type(value) is dict and type(value.get("metrics")) is dict and type(value.get("at")) is dict

"""TensorBoard's event files as runs: each directory that has some is one."""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from t9k.em.errors import InvalidInputError
from t9k.em.metrics import TYPE_ALIASES
from t9k.em.runs.export_tensorboard import import_tensorboard
from t9k.em.runs.imported import ImportedRun, Outcome, split_tag

_HPARAMS_TAG = "_hparams_/session_start_info"
_OUR_SUFFIX = re.compile(r"_\d{6}_\d{6}_[a-z0-9]{6}$")
_NUMBERS = frozenset((1, 2, 3, 4, 5, 6, 9, 14, 17, 19, 22, 23))
"""Numbers of the floating-point and integer types in TensorFlow's types.proto."""


def import_event_files(folder: str, parent: str, progress: Callable[[int, int, int, int], object]) -> Iterator[Outcome]:
    """Imports all runs below a directory, and yields each when it is there.

    A directory named like a type of metrics (``train``, ``validation``) gives
    that type to the run of the directory above, as Keras writes them.

    Args:
        folder: The directory.
        parent: Where the runs go.
        progress: Is told files and bytes.

    Raises:
        InvalidInputError: There are no event files, or the package is missing.
    """
    found = _find(folder)
    if not found:
        raise InvalidInputError(f"there are no TensorBoard event files in {folder}")
    paths = [path for files in found.values() for _, path in files]
    total_bytes = sum(map(os.path.getsize, paths))
    done_files = done_bytes = 0
    for directory, files in found.items():
        name = os.path.relpath(directory, folder).replace(os.sep, "-")
        name = os.path.basename(os.path.abspath(folder)) if name == "." else _OUR_SUFFIX.sub("", name)
        starts = [event.wall_time for _, path in files for event in islice(_events(path), 1)]
        started_s = min((start for start in starts if math.isfinite(start)), default=0.0)
        run = ImportedRun(parent, name, f"tensorboard:{os.path.realpath(directory)}", started_s)
        if run.is_there():
            yield Outcome(run.path, False)
            continue
        reader = _Reader()
        with run:
            for kind, path in files:
                run.log_scalars(reader.scalars(_events(path), kind))
                done_files, done_bytes = done_files + 1, done_bytes + os.path.getsize(path)
                progress(done_files, done_bytes, len(paths), total_bytes)
            run.hparams = reader.hparams
            run.metadata["labels"] = ["tensorboard"]
            run.platform["imported_from"] = {"tool": "tensorboard", "path": os.path.abspath(directory)}
        lost = reader.others + run.left_out
        yield Outcome(run.path, True, [f"{lost} values that are not scalars were left out"] if lost else [])


def _find(folder: str) -> dict[str, list[tuple[str | None, str]]]:
    """Returns type and path of the event files of each run, the oldest first."""
    found: dict[str, list[tuple[str | None, str]]] = {}
    for directory, directories, names in os.walk(folder):
        directories.sort()
        paths = [os.path.join(directory, name) for name in sorted(names) if "tfevents" in name]
        paths = [path for path in paths if os.path.isfile(path) and not os.path.islink(path)]
        kind = TYPE_ALIASES.get(os.path.basename(directory)) if directory != folder else None
        if paths:
            owner = os.path.dirname(directory) if kind else directory
            found.setdefault(owner, []).extend((kind, path) for path in paths)
    return found


def _events(path: str) -> Iterator[Any]:
    """Events of a file up to the first one that is damaged."""
    loader = import_tensorboard("backend.event_processing.event_file_loader").LegacyEventFileLoader(path)
    damaged = importlib.import_module("google.protobuf.message").DecodeError
    with contextlib.suppress(damaged):
        yield from loader.Load()


class _Reader:
    """Takes the scalars out of events, and the hyperparameters of the plugin that shows them.

    Attributes:
        others: How many values are not scalars.
    """

    def __init__(self) -> None:
        self.hparams: dict[str, Any] = {}
        self.others = 0
        self._plugins: dict[str, str] = {}

    def scalars(self, events: Iterator[Any], kind: str | None) -> Iterator[tuple[str, str, int, float, float]]:
        """Yields type, name, step, time and value."""
        for event in events:
            for value in event.summary.value:
                number = self._number(value)
                if number is not None:
                    yield *split_tag(value.tag, kind), event.step, event.wall_time, number

    def _number(self, value: Any) -> float | None:
        if value.HasField("simple_value"):
            return float(value.simple_value)
        # Only the first value of a tag says what it is of.
        plugin = self._plugins.setdefault(value.tag, value.metadata.plugin_data.plugin_name)
        if value.tag == _HPARAMS_TAG and plugin == "hparams":
            self.hparams.update(_hparams(value.metadata.plugin_data.content))
            return None
        tensor = value.tensor
        # Asked before the array is made, which could be of any size.
        is_one = math.prod(dimension.size for dimension in tensor.tensor_shape.dim) == 1
        if plugin == "scalars" and value.HasField("tensor") and tensor.dtype in _NUMBERS and is_one:
            make_ndarray = import_tensorboard("util.tensor_util").make_ndarray
            try:
                return float(make_ndarray(tensor).item())
            except (ValueError, TypeError):
                pass
        self.others += plugin != "hparams"
        return None


def _hparams(content: bytes) -> dict[str, Any]:
    metadata = import_tensorboard("plugins.hparams.metadata")
    damaged = importlib.import_module("google.protobuf.message").DecodeError
    try:
        start = metadata.parse_session_start_info_plugin_data(content)
    except (damaged, metadata.error.HParamsError):  # or of another version
        return {}
    found: dict[str, Any] = {}
    for key, value in start.hparams.items():
        which = value.WhichOneof("kind")
        if which in ("string_value", "bool_value", "number_value"):
            found[key] = getattr(value, which)
    return found

"""A run that another tool recorded, written as one of ours with its original times."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import string
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from t9k.em.errors import InvalidInputError, StoreError
from t9k.em.metrics import TYPE_ALIASES, MetricsWriter, canonical_type, encode_line
from t9k.em.record import INDEX
from t9k.em.run_files import MAX_NAME_BYTES, write_yaml

_BUFFER_BYTES = 1 << 20
_DIGITS = string.digits + string.ascii_lowercase


@dataclass
class Outcome:
    """What an import made of one run of the other tool.

    Attributes:
        path: The run's directory.
        is_new: False if it had been imported before and was left alone.
        notes: What could not be taken along.
    """

    path: str
    is_new: bool
    notes: list[str] = field(default_factory=list)


def split_tag(tag: str, kind: str | None = None) -> tuple[str, str]:
    """Returns type and name of a metric of another tool: ``val/loss`` is loss of type val, others are of type train.

    Args:
        tag: Its name there.
        kind: The type, if it is known: the name is kept whole then, except for a prefix that means the same.
    """
    head, _, rest = tag.partition("/")
    if kind is not None:
        return kind, rest if rest and TYPE_ALIASES.get(head) == kind else tag
    if rest:
        with contextlib.suppress(InvalidInputError):
            return canonical_type(head), rest
    return "train", tag


def iso_time(seconds: float) -> str:
    """Returns a time since the epoch as runs keep it.

    Raises:
        InvalidInputError: It is no time of the years 1 to 9999.
    """
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        raise InvalidInputError(f"{seconds!r} is no time in seconds since 1970") from None


class ImportedRun:
    """A context that leaves a whole run, or nothing if an exception leaves it.

    The directory's last six characters come from the run's identity in the
    other tool, so that importing it again finds it there.
    """

    def __init__(self, parent: str, name: str, identity: str, started_s: float) -> None:
        """Writes nothing yet.

        Args:
            parent: Where runs are.
            name: Name in the other tool; what cannot be in a directory's name is replaced.
            identity: What tells this run from all others of that tool.
            started_s: Its start, in seconds since the epoch.
        """
        self.name = _safe_name(name)
        self._started = iso_time(started_s)
        stamp = time.strftime("%y%m%d_%H%M%S", time.localtime(started_s))
        self.alternative_name = f"{self.name}_{stamp}_{_letters(identity)}"
        self.path = os.path.join(parent, self.alternative_name)
        self.metadata: dict[str, Any] = {"status": "Complete", "labels": [], "description": ""}
        self.hparams: dict[str, Any] = {}
        self.platform: dict[str, Any] = {}
        self.git: dict[str, Any] = {}
        self.left_out = 0
        self._ended_s = started_s
        self._temporary = os.path.join(parent, f".importing-{os.urandom(8).hex()}")
        self._lines: dict[str, list[bytes]] = {}
        self._buffered_bytes = 0

    def is_there(self) -> bool:
        """Tells whether it was imported before."""
        return os.path.lexists(self.path)

    def log(self, kind: str, metrics: Mapping[str, float], step: int, time_s: float) -> None:
        """Adds one point; a name or time that runs cannot have is counted and left out."""
        try:
            line = encode_line(metrics, step, None, iso_time(time_s))
        except InvalidInputError:
            self.left_out += len(metrics)
            return
        self._ended_s = max(self._ended_s, time_s)
        self._lines.setdefault(kind, []).append(line)
        self._buffered_bytes += len(line)
        if self._buffered_bytes >= _BUFFER_BYTES:
            self._flush()

    def log_scalars(self, scalars: Iterator[tuple[str, str, int, float, float]]) -> None:
        """Adds type, name, step, time and value of single metrics; neighbours of one step become one point."""
        kind, step, time_s = "", 0, 0.0
        point: dict[str, float] = {}
        for new_kind, name, new_step, new_time_s, value in scalars:
            if point and (new_kind != kind or new_step != step or name in point):
                self.log(kind, point, step, time_s)
                point = {}
            kind, step, time_s = new_kind, new_step, new_time_s
            point[name] = value
        if point:
            self.log(kind, point, step, time_s)

    def __enter__(self) -> ImportedRun:
        try:
            os.makedirs(os.path.join(self._temporary, "metrics"))
        except OSError as error:
            raise StoreError(f"cannot create {self._temporary}: {error.strerror}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            shutil.rmtree(self._temporary, ignore_errors=True)  # renamed away if all went well

    def _finish(self) -> None:
        self._flush()
        ended = self.metadata.pop("end_timestamp", None) or iso_time(self._ended_s)
        metadata: dict[str, Any] = {
            "name": self.name,
            "alternative_name": self.alternative_name,
            "start_timestamp": self._started,
            "end_timestamp": ended,
            "associations": {"inputs": [], "outputs": []},
            "remote": [],
        }
        kinds = sorted(name.removesuffix(".yaml") for name in os.listdir(os.path.join(self._temporary, "metrics")))
        self._write("hyperparameters", self.hparams)
        self._write("platform", self.platform)
        self._write("git", self.git)
        self._write("index", {**INDEX, "metrics": {kind: f"metrics/{kind}.yaml" for kind in kinds}})
        self._write("metadata", metadata | self.metadata)
        try:
            with open(os.path.join(self._temporary, "stdout.log"), "xb"):
                pass
            os.rename(self._temporary, self.path)  # fails if something is there
        except OSError as error:
            raise StoreError(f"cannot create {self.path}: {error.strerror}") from error

    def _write(self, name: str, value: Mapping[str, Any]) -> None:
        write_yaml(os.path.join(self._temporary, f"{name}.yaml"), value)

    def _flush(self) -> None:
        for kind, lines in self._lines.items():
            writer = MetricsWriter(os.path.join(self._temporary, "metrics", f"{kind}.yaml"))
            try:
                writer.append(b"".join(lines))
            finally:
                writer.close()
        self._lines.clear()
        self._buffered_bytes = 0


def _safe_name(name: str) -> str:
    text = "".join(char if char.isprintable() and char not in "/\\" else "-" for char in name).lstrip(".").strip()
    return text.encode()[:MAX_NAME_BYTES].decode(errors="ignore") or "imported"


def _letters(identity: str) -> str:
    number = int.from_bytes(hashlib.sha256(identity.encode("utf-8", "surrogateescape")).digest())
    letters = ""
    for _ in range(6):
        number, digit = divmod(number, len(_DIGITS))
        letters += _DIGITS[digit]
    return letters

"""The writing side of a Run: what goes to its directory, when, and what happens if that fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from t9k.em.capture import heartbeat, output, system
from t9k.em.capture.monitor import Monitor
from t9k.em.capture.snapshot import Snapshot
from t9k.em.errors import StoreError
from t9k.em.hparams_file import HparamsFile
from t9k.em.metrics import MetricsWriter, encode_line, repair_torn_line, timestamp
from t9k.em.params import Params
from t9k.em.process import current_pid
from t9k.em.run_files import write_yaml
from t9k.em.warn import warn

HPARAMS = "hyperparameters.yaml"
FILES = ("metadata.yaml", HPARAMS, "platform.yaml", "git.yaml", "index.yaml")

INDEX = {
    "hyperparameters": HPARAMS,
    "platform": "platform.yaml",
    "git": "git.yaml",
    "log": "stdout.log",
}


class Recorder:
    """Writes one run's directory for the process that made it; a forked child writes nothing.

    Once recording has begun, nothing raises because of the disk: the first
    failure warns, lines that found no room are counted, and whole files are
    owed until there is room again.

    Attributes:
        path: The run's directory.
        lost_lines: Log calls that could not be written.
        points: `MetricsWriter.append_point` of each type that was logged, by
            the type's name as the script spells it.
    """

    def __init__(
        self,
        path: str,
        params: Callable[[], Params],
        content: Callable[[str], Mapping[str, Any]],
        lock: threading.RLock,
    ) -> None:
        """Writes nothing yet.

        Args:
            path: The run's directory.
            params: Returns the run's hyperparameters.
            content: Returns what belongs into another of `FILES` but the index.
            lock: The run's, reentrant. One for both: the handler of a signal
                ends the run in the midst of anything, with what its thread holds.
        """
        self.path = path
        self.lost_lines = 0
        self._hparams = HparamsFile(os.path.join(path, HPARAMS), params)
        self._content = content
        self._pid = current_pid()
        self._lock = lock
        self._writers: dict[str, MetricsWriter] = {}
        self.points: dict[str, Callable[[object, object, object, int], bool]] = {}
        self._owed: set[str] = set()
        self._is_warned = False
        self._is_recording = False
        self._snapshot: Snapshot | None = None
        self._monitor: Monitor | None = None
        self._output: output.OutputCapture | None = None

    def make_dirs(self) -> None:
        """Makes the directory of the metrics and an empty log.

        Raises:
            StoreError: They cannot be made.
        """
        try:
            os.makedirs(os.path.join(self.path, "metrics"), exist_ok=True)
            with open(os.path.join(self.path, "stdout.log"), "ab"):
                pass
        except OSError as error:
            raise StoreError(f"cannot create the files of run {self.path}: {error.strerror}") from error

    def repair(self) -> dict[str, int]:
        """Cuts torn last lines off, and returns how many bytes of which metrics files."""
        self.make_dirs()
        folder = os.path.join(self.path, "metrics")
        names = [name for name in sorted(os.listdir(folder)) if name.endswith(".yaml")]
        torn = {name: repair_torn_line(os.path.join(folder, name)) for name in names}
        return {name: count for name, count in torn.items() if count}

    def beat(self) -> None:
        """Leaves a first sign of life, which also proves that the directory can be written.

        Raises:
            StoreError: It cannot.
        """
        try:
            heartbeat.beat(self.path)
        except OSError as error:
            raise StoreError(f"cannot write to run {self.path}: {error.strerror}") from error

    def start(self) -> None:
        """Writes all files, and begins to capture output and the machine's use.

        Raises:
            StoreError: A file cannot be written.
        """
        for name in FILES:
            self._write(name)
        self._is_recording = True
        if output.is_wanted():
            try:
                self._output = output.OutputCapture(os.path.join(self.path, "stdout.log"))
            except OSError as error:
                warn(f"the output is not captured: {error}")
        self._monitor = Monitor(self.path, self._log_system if system.is_wanted() else None, self._save_owed)

    def collect(self, save: Callable[[str, Mapping[str, Any]], None]) -> None:
        """Begins to find out about platform and git; each is given to ``save`` from another thread."""
        self._snapshot = Snapshot(save)

    def append(self, kind: str, line: bytes, name: str) -> None:
        """Writes one line of metrics with one system call; what finds no room is counted.

        Args:
            kind: The type of the metrics.
            line: Their line.
            name: The type as the script spells it.
        """
        try:
            writer = self._writers.get(kind) or self._open_writer(kind)
            writer.append(line)
            self.points[name] = writer.append_point
        except StoreError as error:
            with self._lock:
                self.lost_lines += 1
            self.warn_once(error)

    def save(self, name: str) -> None:
        """Replaces one of `FILES`; if the disk is full, later."""
        if current_pid() != self._pid:
            return
        with self._lock:
            try:
                self._write(name)
                self._owed.discard(name)
            except (StoreError, OSError) as error:
                self._owed.add(name)
                self.warn_once(error)

    def warn_once(self, error: Exception) -> None:
        """Says that something is missing from the record, the first time."""
        with self._lock:
            is_first, self._is_warned = not self._is_warned, True
        if is_first:
            warn(f"{error}; training goes on without this record")

    def stop(self) -> None:
        """Ends what runs beside the script, and closes the metrics; what is owed is written now."""
        for background in (self._monitor, self._output):
            if background is not None:
                background.stop()
        if self._snapshot is not None:
            self._snapshot.wait()
        with self._lock:
            self._is_recording = False
            for writer in self._writers.values():
                writer.close()
            self._writers.clear()
            self.points.clear()
            self._save_owed()

    def _write(self, name: str) -> None:
        with self._lock:
            if name == HPARAMS:
                self._hparams.write()
                return
            content = self._index() if name == "index.yaml" else self._content(name)
            write_yaml(os.path.join(self.path, name), content)

    def _index(self) -> dict[str, Any]:
        files = sorted(file for file in os.listdir(os.path.join(self.path, "metrics")) if file.endswith(".yaml"))
        return {**INDEX, "metrics": {file.removesuffix(".yaml"): f"metrics/{file}" for file in files}}

    def _save_owed(self) -> None:
        for name in sorted(self._owed):
            self.save(name)

    def _open_writer(self, kind: str) -> MetricsWriter:
        with self._lock:
            if kind not in self._writers:
                self._writers[kind] = MetricsWriter(os.path.join(self.path, "metrics", f"{kind}.yaml"))
                self.save("index.yaml")
            return self._writers[kind]

    def _log_system(self, values: Mapping[str, float], step: int) -> None:
        line = encode_line(values, step, None, timestamp())
        with self._lock:
            if self._is_recording:
                (self._writers.get("system") or self._open_writer("system")).append(line)

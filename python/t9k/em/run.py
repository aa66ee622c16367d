"""A Run: one directory that records one training, whatever ends the process."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any

from t9k.em.capture import ending, heartbeat
from t9k.em.errors import ConflictError, EmError, InvalidInputError, NotFoundError
from t9k.em.fields import Fields
from t9k.em.metrics import LazyMetrics, canonical_type, encode_line, timestamp
from t9k.em.params import Params
from t9k.em.process import current_pid
from t9k.em.record import HPARAMS, Recorder
from t9k.em.run_config import read_run_config
from t9k.em.run_files import check_name, make_run_dir, path_text, read_yaml
from t9k.em.warn import warn

if TYPE_CHECKING:
    from t9k.em.sync.auto import AutoUpload
    from t9k.em.sync.state import SyncState

_ALTERNATIVE_NAME = re.compile(r"_\d{6}_\d{6}_[a-z0-9]{6}$")


class Run:
    """A run of a specific model for a certain ML task; made by `create_run` and `load_run`.

    Its directory is complete and readable at every moment, whatever ends the
    process. A full disk is one warning, and training goes on; how many log
    calls are missing is in the metadata. Safe between threads. A forked child
    keeps the object, but neither writes nor finishes the run.

    Works as a context manager: the end of the block finishes the run, and an
    exception that leaves it marks the run Failed and goes on.

    Attributes:
        name: Name of the Run.
        labels: Labels of the Run.
        description: Description of the Run.
        start_timestamp: Start timestamp of the Run, UTC.
        end_timestamp: End timestamp of the Run; empty while it is Running.
        status: ``Running``, ``Complete``, ``Failed`` (an uncaught exception,
            SIGTERM, an exit code) or ``Crashed`` (the process went away).
        alternative_name: ``<name>_<YYMMDD>_<HHMMSS>_<6 random characters>``,
            the name of the local directory.
        associations: Input and output resources of the Run: ``inputs`` and
            ``outputs``.
        hparams: Hyperparameters of the Run; ``params`` is the same object.
        platform: Platform information of the Run, soon after it began.
        git: Git information of the Run, soon after it began.
        remote: Upload and download history of the Run.
        local: Local directory of the Run; empty if it has none.

    Example:
        >>> with em.create_run(name="mnist", hparams={"lr": 0.1}) as run:
        ...     run.log("train", {"loss": 0.5}, step=1)
        >>> run.status
        'Complete'
    """

    def __init__(
        self,
        metadata: dict[str, Any],
        hparams: dict[str, Any] | None = None,
        metrics: dict[str, list[dict[str, dict[str, Any]]]] | None = None,
        platform: dict[str, Any] | None = None,
        git: dict[str, Any] | None = None,
    ) -> None:
        """Creates a Run in memory; `create_run` gives it a directory.

        Args:
            metadata: Metadata to initialize a new Run.
            hparams: Hyperparameters of the Run.
            metrics: Metrics of the Run, by type.
            platform: Platform information of the Run.
            git: Git information of the Run.

        Raises:
            InvalidInputError: A field has another type.
        """
        self._pid = current_pid()
        self._lock = threading.RLock()
        self._recorder: Recorder | None = None  # of a run that has a directory
        self._points: dict[str, Callable[[object, object, object, int], bool]] = {}  # the recorder's
        self._is_guest = False
        self._is_loaded = False  # the first change makes it a run of this process
        self._auto_upload: AutoUpload | None = None
        self.local = ""
        self.parse_from_dict(
            {
                "metadata": metadata,
                "hparams": hparams or {},
                "metrics": metrics or {},
                "platform": platform or {},
                "git": git or {},
            }
        )

    def parse_from_dict(self, data: dict[str, Any]) -> None:
        """Parses a Run instance from a dict as `to_dict` returns it.

        Args:
            data: ``metadata``, ``hparams``, ``metrics``, ``platform`` and
                ``git``; only the metadata must be there.

        Raises:
            InvalidInputError: A field has another type.
        """
        fields = Fields("a run", data.get("metadata"))
        self.name: str = check_name(fields.text("name", "default"))
        self.labels: list[str] = fields.texts("labels")
        self.description: str = fields.text("description")
        self.start_timestamp: str = fields.text("start_timestamp", timestamp())
        self.end_timestamp: str = fields.text("end_timestamp")
        self.status: str = fields.text("status", "Running")
        self.alternative_name: str = fields.text("alternative_name", self.name)
        marks = Fields("a run", fields.mapping("associations"))
        self.associations: dict[str, list[dict[str, str]]] = {
            side: marks.mappings(side) for side in ("inputs", "outputs")
        }
        self.remote: list[dict[str, str]] = fields.mappings("remote")
        self._process: dict[str, Any] = fields.mapping("process")
        self._error: str = fields.text("error")
        self._lost_lines = fields.count("lost_log_lines")
        parts = Fields("a run", data)
        self.hparams = Params(self._write_hparams, data.get("hparams"))
        metrics = Fields("the metrics of a run", parts.mapping("metrics"))
        self._metrics: dict[str, list[dict[str, dict[str, Any]]]] = {
            kind: metrics.mappings(kind) for kind in parts.mapping("metrics")
        }
        self.platform: dict[str, Any] = parts.mapping("platform")
        self.git: dict[str, Any] = parts.mapping("git")

    @property
    def params(self) -> Params:
        """The same object as ``hparams``."""
        return self.hparams

    @property
    def metrics(self) -> Mapping[str, Sequence[dict[str, dict[str, Any]]]]:
        """Metrics produced in the Run by type; a type's file is read when its points are asked for.

        The points are a sequence of ``{"metrics": {…}, "at": {…}}`` that keeps
        them in columns: 1,000,000 of them take 1 s and 40 bytes each.
        """
        folder = os.path.join(self.local, "metrics")
        return LazyMetrics(folder) if self.local and os.path.isdir(folder) else self._metrics

    def to_dict(self) -> dict[str, Any]:
        """Converts Run instance to a dict of plain values and returns it, its metrics included."""
        return {
            "metadata": self._metadata(),
            "hparams": self.hparams.to_dict(),
            "metrics": {kind: list(points) for kind, points in self.metrics.items()},
            "platform": dict(self.platform),
            "git": dict(self.git),
        }

    def to_dataframe(self, library: str | None = None) -> Any:
        """Returns all metrics as a data frame: a row for each log call.

        Columns are ``type``, ``step``, ``epoch``, ``timestamp`` and one for
        each metric, empty where it was not logged.

        Args:
            library: 'pandas' or 'polars'; by default the first that is installed.

        Raises:
            InvalidInputError: Another library is named, or none is installed.
        """
        from t9k.em.dataframe import make_dataframe

        return make_dataframe(self.metrics, library)

    def log(self, type: str, metrics: Mapping[str, Any], step: int, epoch: int | None = None) -> None:
        """Logs a set of metrics of Run, with one write to the file of their type.

        Args:
            type: 'train' (or 'training'), 'val' (or 'validate',
                'validation'), 'test' (or 'testing', 'eval', 'evaluate',
                'evaluation'), or any other text as a custom type.
            metrics: Name to a number, or to an array of one number.
            step: Number of the step that the metrics belong to.
            epoch: Number of the epoch that the metrics belong to.

        Raises:
            InvalidInputError: A name or value is of a wrong kind, or the run
                has ended. A full disk raises nothing: the first lost line
                warns, and `finish` records how many were lost.

        Example:
            >>> run.log(type="train", metrics={"loss": 0.5, "accuracy": 0.9}, step=100, epoch=1)
            >>> run.metrics["train"][-1]["metrics"]["loss"]
            0.5
        """
        # Most calls of a training: a type that was logged before, plain names and numbers, and room on the disk.
        point = self._points.get(type) if type.__class__ is str else None
        if point is not None and self.status == "Running" and current_pid() == self._pid:  # noqa: SIM102 - or below
            if point(metrics, step, epoch, time_ns()):
                return
        kind = canonical_type(type)
        line = encode_line(metrics, step, epoch, timestamp())
        if current_pid() != self._pid:
            return
        if self._is_loaded:
            self._resume()
        if self.status != "Running":
            raise InvalidInputError(f"run {self.alternative_name!r} is {self.status}; load_run continues it")
        if self._recorder is not None:
            self._recorder.append(kind, line, type)
            return
        at: dict[str, Any] = {"step": step} if epoch is None else {"step": step, "epoch": epoch}
        with self._lock:
            self._metrics.setdefault(kind, []).append({"metrics": dict(metrics), "at": at})

    def finish(self, *args: Any, **kwargs: Any) -> None:
        """Marks the run Complete; again, or in a forked child, it does nothing.

        It is also called at the end of the process.

        Args:
            args: Accepted for the original interface, and ignored.
            kwargs: Likewise.
        """
        self._finish("Complete")

    def mark_input(self, resource: Any) -> None:
        """Marks an Artifact, Model or Dataset as an input of this Run; again, it does nothing.

        Args:
            resource: An Artifact, or a Model, Dataset, Branch, Tag or Commit
                of the asset hub.

        Raises:
            InvalidInputError: It is something else.
            ConflictError: The run belongs to another process that lives.
        """
        self._mark("inputs", resource)

    def mark_output(self, resource: Any) -> None:
        """Marks an Artifact, Model or Dataset as an output of this Run; again, it does nothing.

        Args:
            resource: An Artifact, or a Model, Dataset, Branch, Tag or Commit
                of the asset hub.

        Raises:
            InvalidInputError: It is something else.
            ConflictError: The run belongs to another process that lives.
        """
        self._mark("outputs", resource)

    def upload(self, folder: str = "default", make_folder: bool = False, conflict_strategy: str = "new") -> None:
        """Uploads this Run to server, with its input and output Artifacts that are not there yet.

        A call that was interrupted is continued by the next one. So is what ``auto_upload`` has sent to this folder,
        and what a Run that was loaded from it lacks there: only what is new is sent.

        Args:
            folder: Path of the Folder it goes to; without a leading ``/`` it
                is below ``/<current-user>/``.
            make_folder: Whether to make the Folder and its parents as needed.
            conflict_strategy: What to do with a taken name: ``'skip'``,
                ``'error'``, ``'new'`` (the alternative name) or
                ``'replace'``. Artifacts are always ``'new'``.

        Raises:
            ConflictError: The name is taken, and so is the alternative name,
                or the strategy is ``'error'``.
            NotFoundError: There is no such Folder.
            AuthError: Nobody is logged in, or the user may not.
            TransferError: The server cannot be reached.

        Example:
            >>> run.upload(folder="mnist", make_folder=True)  # doctest: +SKIP
        """
        from t9k.em.client.connection import connected
        from t9k.em.client.placement import Target
        from t9k.em.sync.send import upload_run

        target = Target(folder, make_folder, conflict_strategy)
        if not self.local:
            raise InvalidInputError(f"run {self.alternative_name!r} has no local directory", hint="use em.create_run")
        session = connected()
        if not self._is_guest:
            self._save("metadata.yaml")  # it was perhaps changed by assignment
        upload_run(session, self, target)

    def remember(self, transfer: dict[str, str]) -> None:
        """Appends a line to the remote history, in the directory too unless another process writes that."""
        self.remote.append(transfer)
        if not self._is_guest:
            self._save("metadata.yaml")

    def remember_place(self, state: SyncState | None) -> None:
        """Appends where other processes have sent the run, as far as that is known and not in the history yet."""
        if state is None or not state.node_id:
            return
        place = {"action": "upload", "host": state.server, "path": state.path}
        if not any(place.items() <= line.items() for line in self.remote):
            self.remember({**place, "timestamp": timestamp()})

    def __repr__(self) -> str:
        return f"<Run {self.alternative_name!r}: {self.status}, {self.local or 'in memory'}>"

    def _repr_html_(self) -> str:
        from t9k.em.notebook import run_table

        return run_table(self)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self._finish("Complete")
        elif isinstance(error, SystemExit):
            self._fail(ending.exit_reason(error.code))
        else:
            from traceback import format_exception

            self._fail("".join(format_exception(error)))

    def _metadata(self) -> dict[str, Any]:
        metadata: dict[str, Any] = {
            "name": self.name,
            "alternative_name": self.alternative_name,
            "labels": list(self.labels),
            "description": self.description,
            "start_timestamp": self.start_timestamp,
            "end_timestamp": self.end_timestamp,
            "status": self.status,
            "associations": {side: list(marks) for side, marks in self.associations.items()},
            "remote": list(self.remote),
        }
        lost = self._lost_lines + (self._recorder.lost_lines if self._recorder is not None else 0)
        optional = {"process": self._process, "error": self._error, "lost_log_lines": lost}
        return metadata | {key: value for key, value in optional.items() if value}

    def _content(self, name: str) -> Mapping[str, Any]:
        if name == "metadata.yaml":
            return self._metadata()
        return self.platform if name == "platform.yaml" else self.git

    def _save(self, name: str) -> None:
        if self._recorder is not None:
            self._recorder.save(name)

    def _write_hparams(self) -> None:
        self._resume()
        self._save(HPARAMS)

    def _save_capture(self, name: str, value: Mapping[str, Any]) -> None:
        with self._lock:
            (self.platform if name == "platform" else self.git).update(value)
            self._save(f"{name}.yaml")

    def _mark(self, side: str, resource: Any) -> None:
        name = getattr(resource, "alternative_name", None) or getattr(resource, "name", None)
        is_path = isinstance(resource, str | os.PathLike)  # a Path has a name as well
        if is_path or not isinstance(name, str):
            hint = "add the files to an artifact, and mark that" if is_path else None
            kind = resource.__class__.__name__
            raise InvalidInputError(f"a {kind} cannot be an input or output of a run", hint=hint)
        self._resume()
        if self._is_guest:
            raise ConflictError(f"run {self.alternative_name!r} belongs to another process, which must mark it")
        mark = {"type": resource.__class__.__name__, "name": name}
        if local := getattr(resource, "local", None):
            mark["local"] = str(local)
        with self._lock:
            if mark not in self.associations[side]:
                self.associations[side].append(mark)
                self._save("metadata.yaml")

    def _open(self, path: str) -> Recorder:
        self.local = path
        self._recorder = Recorder(path, lambda: self.hparams, self._content, self._lock)
        self._points = self._recorder.points
        return self._recorder

    def _start(self, recorder: Recorder) -> None:
        recorder.beat()
        self._process = heartbeat.identify()
        self.status, self.end_timestamp, self._error = "Running", "", ""
        recorder.start()
        if self._auto_upload is not None:
            self._auto_upload.start(self.local)
        ending.watch(id(self), self._fail, self.finish)

    def _resume(self) -> None:
        if not self._is_loaded or current_pid() != self._pid:
            return
        with self._lock:
            if not self._is_loaded or self._recorder is None:
                return
            try:
                now = Fields("a run", read_yaml(os.path.join(self.local, "metadata.yaml")))
                if now.text("status") == "Running" and not heartbeat.is_gone(now.mapping("process"), self.local):
                    self.status, self._is_guest = "Running", True  # another process was first
                else:
                    self._start(self._recorder)
            except EmError as error:
                self.status = "Running"  # in memory: the script logs on, and what is lost is counted
                self._recorder.warn_once(error)
            finally:
                self._is_loaded = False  # last: other threads look at it without the lock

    def _fail(self, reason: str) -> None:
        if self.status == "Running" and current_pid() == self._pid:
            self._error = reason[-4000:]
            self._finish("Failed")

    def _finish(self, status: str) -> None:
        # Asked first: the lock of a forked child may belong to a thread that it does not have.
        if current_pid() != self._pid or self.status != "Running":
            return
        recorder = self._recorder
        if recorder is not None:
            recorder.stop()
        with self._lock:
            if self.status != "Running":
                return
            self.status, self.end_timestamp = status, timestamp()
            if not self._is_guest:
                self._save("metadata.yaml")
        ending.unwatch(id(self))
        if self._auto_upload is not None:
            self.remember_place(self._auto_upload.finish(is_failure=status != "Complete"))

    def _upload_while_it_grows(self, folder: str, make_folder: bool, conflict_strategy: str) -> None:
        from t9k.em.sync.auto import AutoUpload

        self._auto_upload = AutoUpload(folder, make_folder, conflict_strategy)


def create_run(
    config_path: str | os.PathLike[str] | None = None,
    name: str = "default",
    hparams: dict[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    description: str = "",
    auto_upload: bool = False,
    folder: str = "default",
    make_folder: bool = False,
    conflict_strategy: str = "new",
) -> Run:
    """Creates and initializes a new Run.

    Its directory is ``<parent>/<alternative_name>``, where the parent is
    EM_RUN_PARENT_DIR (default ``.em/runs``).

    Platform, git state and packages are collected after this has returned.
    Output goes to ``stdout.log`` too, unless EM_CAPTURE is 0, up to
    EM_CAPTURE_MAX_BYTES (64 MiB). The machine's use is logged each 10 s as
    type ``system``, unless EM_SYSTEM_METRICS is 0. An uncaught exception,
    SIGTERM or an exit code other than 0 marks the Run Failed; a process that
    goes away leaves it Crashed.

    Args:
        config_path: Local path of the Run config file: YAML with any of the
            keys that the following arguments are named by. Its values take
            precedence over the arguments.
        name: Name of the Run.
        hparams: Initial hyperparameters of the Run.
        labels: Labels of the Run.
        description: Description of the Run.
        auto_upload: Whether to upload the Run and its data automatically and
            asynchronously, from a process beside the script, which never waits
            for it; `Run.finish` does, up to EM_SYNC_FINISH_S (60) seconds. If
            False, the following arguments are not used.
        folder: Path of the Folder to which the Run is uploaded; without a
            leading ``/`` it is below ``/<current-user>/``.
        make_folder: Whether to make the Folder and its parents as needed.
        conflict_strategy: What to do with a taken name: ``'skip'``,
            ``'error'``, ``'new'`` (the alternative name) or ``'replace'``.

    Returns:
        A Run instance created and initialized.

    Raises:
        InvalidInputError: An argument is wrong; or the config file, whose
            line the message names, and the key that may have been meant.
        NotFoundError: There is no config file.
        StoreError: The directory cannot be created.
        AuthError: ``auto_upload``, and nobody is logged in; EM_MODE=offline needs no
            server: `em sync` sends the Run later.

    Example:
        >>> from t9k import em
        >>> run = em.create_run(name="cnn_keras", hparams={"batch_size": 32, "epochs": 1}, labels=["Keras"])
        >>> run.params.epochs
        1
        >>> run.finish()

        The same from a file ``run_config.yaml``::

            name: cnn_keras
            hparams:
              batch_size: 32
              epochs: 1
            labels:
            - Keras
            description: Train a simple CNN model that classifies images of handwritten digits.

        >>> run = em.create_run(config_path="./run_config.yaml")
        >>> run.labels
        ['Keras']
    """
    config = read_run_config(config_path) if config_path is not None else {}
    name = check_name(config.get("name", name))
    if isinstance(labels, str):
        raise InvalidInputError("labels must be a list of texts, not one text")
    run = Run(
        {
            "name": name,
            "labels": config.get("labels", labels),
            "description": config.get("description", description),
        },
        hparams=config.get("hparams", hparams),
    )
    if config.get("auto_upload", auto_upload):
        run._upload_while_it_grows(
            config.get("folder", folder),
            config.get("make_folder", make_folder),
            config.get("conflict_strategy", conflict_strategy),
        )
    parent = os.environ.get("EM_RUN_PARENT_DIR") or os.path.join(".em", "runs")
    path, run.alternative_name = make_run_dir(os.path.abspath(parent), name)
    recorder = run._open(path)
    recorder.make_dirs()
    run._start(recorder)
    recorder.collect(run._save_capture)
    return run


def load_run(
    path: str | os.PathLike[str],
    auto_upload: bool = False,
    folder: str = "default",
    make_folder: bool = False,
    conflict_strategy: str = "new",
) -> Run:
    """Loads a Run from its local directory, or from the server; the first change continues it.

    A run whose process went away without `finish` is Crashed, and repaired,
    with a warning if a torn line was cut off. The first `Run.log`, change of
    a hyperparameter or mark makes a loaded run, ended or Crashed, a run of
    this process: Running, until it ends. Beside a live process that owns the
    run, `Run.log` appends and hyperparameters merge, key by key, but
    `Run.finish` leaves the run to its owner, who alone marks inputs and
    outputs.

    Args:
        path: Local directory of the Run, or path of the Run in server; without
            a leading ``/`` that is below ``/<current-user>/``. One of the
            server gets a directory below EM_RUN_PARENT_DIR; with
            ``auto_upload`` it is continued where it is there.
        auto_upload: Whether to upload the Run and its data automatically and
            asynchronously, from a process beside the script, which never waits
            for it; `Run.finish` does, up to EM_SYNC_FINISH_S (60) seconds. If
            False, the following arguments are not used.
        folder: Path of the Folder to which the Run is uploaded; without a
            leading ``/`` it is below ``/<current-user>/``.
        make_folder: Whether to make the Folder and its parents as needed.
        conflict_strategy: What to do with a taken name: ``'skip'``,
            ``'error'``, ``'new'`` (the alternative name) or ``'replace'``.

    Returns:
        A Run instance loaded.

    Raises:
        NotFoundError: The path is nowhere; it is a RuntimeError too.
        InvalidInputError: The files are not those of a run.
        TransferError: The server cannot be reached.
        AuthError: The user may not see it; or ``auto_upload``, and nobody is logged in; EM_MODE=offline needs no
            server: `em sync` sends the Run later.

    Example:
        >>> loaded = em.load_run(run.local)
        >>> loaded.hparams.to_dict() == run.hparams.to_dict()
        True
    """
    run = _load_local(_local_path(path_text(path)))
    if auto_upload and not run._is_guest:
        run._upload_while_it_grows(folder, make_folder, conflict_strategy)
    return run


def _local_path(path: str) -> str:
    """The directory of a run; one of the server is loaded first."""
    local = os.path.abspath(path)
    if os.path.isfile(os.path.join(local, "metadata.yaml")):
        return local
    if os.path.isdir(os.path.join(local, ".artifact")):
        raise NotFoundError(f"there is no run at {local}", hint="that is an artifact: em.load_artifact loads it")
    if os.path.isdir(local) and _ALTERNATIVE_NAME.search(os.path.basename(local)):
        raise NotFoundError(
            f"the run at {local} has no metadata: its process died, or is still busy, while it created the run",
            hint="nothing was logged; the directory can be deleted",
        )
    from t9k.em.client.connection import connected, is_configured

    if not is_configured():
        raise NotFoundError(f"there is no run at {local}, and no server to look for it")
    from t9k.em.transfer.download_run import download_run

    return download_run(connected(), path)


def _load_local(path: str) -> Run:
    data: dict[str, Any] = {"metadata": read_yaml(os.path.join(path, "metadata.yaml"))}
    for key, file in (("hparams", "hyperparameters"), ("platform", "platform"), ("git", "git")):
        try:
            data[key] = read_yaml(os.path.join(path, f"{file}.yaml"))
        except NotFoundError:
            data[key] = {}  # the process died while it created the run
    run = Run(data["metadata"], data["hparams"], None, data["platform"], data["git"])
    recorder = run._open(path)
    if run.status == "Running":
        if heartbeat.is_gone(run._process, path):
            for file, torn_bytes in recorder.repair().items():
                warn(f"metrics/{file} of run {run.alternative_name!r} ended in a torn line; {torn_bytes} bytes cut off")
            run.status = "Crashed"
        else:
            run._is_guest = True
    run._is_loaded = not run._is_guest
    return run

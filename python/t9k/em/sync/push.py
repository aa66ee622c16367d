"""One run's directory to the server, as far as that lacks it.

```text
the run itself ─ parts of its record ─ metrics ─ log ─ sign of life ─ artifacts ─ edges ─ metadata with its state
```

Each step sends what has grown and changed since the one before. What the server acknowledged is noted in the
directory's state; what it did not is sent again and counts once: the run by its client id, a batch of metrics by its
number, bytes of the log by their offset. The state comes last: a run that is Complete there is there whole.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import IO, Any

from t9k.em import _engine
from t9k.em.capture import heartbeat
from t9k.em.client import nodes, runs
from t9k.em.client.connection import user_of
from t9k.em.client.placement import absolute_path, telling_of_make_folder
from t9k.em.client.session import Session
from t9k.em.errors import ConflictError, EmError, NotFoundError, StoreError
from t9k.em.run_files import read_yaml
from t9k.em.sync.artifacts import MarkedArtifacts
from t9k.em.sync.batches import READ_BYTES, next_batch
from t9k.em.sync.documents import document
from t9k.em.sync.go_back import go_back, is_restored
from t9k.em.sync.state import Sent, SyncState
from t9k.em.transfer.progress import Report
from t9k.protocol.runs import MAX_LOG_BYTES

BEAT_S = 20.0
"""The server takes a run for crashed after a few minutes without a sign of life."""

LOG_BYTES = 1 << 20
"""Of the log in one request."""

_PARTS = {"hparams": "hyperparameters.yaml", "platform": "platform.yaml", "git": "git.yaml"}
_METADATA = "metadata.yaml"


class Push:
    """Sends one run; its caller holds the run's lock. A context manager: leaving it waits for the artifact under way.

    Attributes:
        state: What was acknowledged; saved after each acknowledgement.
        report: What was sent, by the run and by its artifacts.
        artifacts: Those that the run has marked.
        artifact_error: What the last step met at an artifact; it raised this when all else was sent.
        node: Where the run is, or what has its name where it was skipped; None before a step has asked.
    """

    def __init__(
        self, session: Session, run_dir: str, state: SyncState, on_sent: Callable[[], None] | None = None
    ) -> None:
        """Sends nothing yet.

        Args:
            session: The server; if its user is not known yet, the first step asks.
            run_dir: Directory of the run.
            state: What was acknowledged so far.
            on_sent: Called when more was acknowledged.

        Raises:
            ConflictError: Another server has the run.
        """
        if state.node_id and state.server != session.url:
            raise ConflictError(
                f"the run {run_dir} is at {state.server}, and this is a session at {session.url}",
                hint="log in there; or `em upload`, once it is there whole, puts a copy here",
            )
        self.state = state
        self.report = Report()
        self.artifacts = MarkedArtifacts(session, state, self._save, self.report)
        self.artifact_error: EmError | None = None
        self.node: nodes.Node | None = None
        self._given = session  # the artifacts' too
        self._session = replace(session, history=state.history, on_body=self._count)
        self._run_dir = run_dir
        self._on_sent = on_sent
        self._what = f"cannot upload run {os.path.basename(run_dir)!r}"
        self._stamps: dict[str, tuple[int, int]] = {}  # of files whose content was acknowledged
        self._beat_at = 0.0

    def __enter__(self) -> Push:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.artifacts.close()
        self._session.close()

    def has_ended(self) -> bool:
        """Whether nothing more will be written by the run: it was finished, or its process is gone."""
        return bool(read_metadata(self._run_dir)["state"] != "Running")

    def step(self, *, wait: bool = False) -> None:
        """Sends what the server lacks now.

        Args:
            wait: Whether for artifacts too; else they go on beside the next steps.

        Raises:
            EmError: What could not be sent, and why. What was acknowledged before stays so. An artifact that fails
                keeps nothing else back.
        """
        if not self._session.user:
            self._given.user = self._session.user = user_of(self._session)
        if is_restored(self._session, self.state):
            self._go_back()
        try:
            self._send_all(wait=wait)
        except (ConflictError, NotFoundError):
            if not is_restored(self._session, self.state):
                raise
            self._go_back()
            self._send_all(wait=wait)

    def _go_back(self) -> None:
        go_back(self._session, self._run_dir, self.state, self._what)
        self._stamps.clear()
        self._save()

    def _send_all(self, *, wait: bool) -> None:
        # Read first: what the run wrote before its end is then sent together with its end.
        metadata = read_metadata(self._run_dir)
        if not self.state.node_id and not self.state.is_skipped:
            self._make(metadata)
        if self.state.is_skipped:
            return
        for name, part, key, file, stamp in self._unsent_parts():
            if part is not None:
                runs.change(self._session, self.state.node_id, {name: part}, self._what)
                self._acknowledge(name, key)
            self._stamps[file] = stamp
        for kind in self._kinds():
            self._send_metrics(kind)
        self._send_log(has_ended=metadata["state"] != "Running")
        self._beat(metadata)
        send = self.artifacts.send if wait else self.artifacts.send_beside
        self.artifact_error = send(metadata)
        self._send_edges(metadata)
        parts = self._metadata_parts(metadata)
        if self.state.parts.get("metadata") != (key := _digest_of(parts)):
            runs.change(self._session, self.state.node_id, parts, self._what)
            self._acknowledge("metadata", key)
        if self.artifact_error is not None:
            raise self.artifact_error
        if self.state.problem:
            self._save()

    def is_complete(self) -> bool:
        """Whether the server has acknowledged all that the directory has now; of a run that goes on, whole lines."""
        if self.state.is_skipped:
            return True
        if not self.state.node_id:
            return False
        metadata = read_metadata(self._run_dir)
        edges = self.artifacts.edges(metadata)
        return (
            all(b"\n" not in self._rest(kind, 1) for kind in self._kinds())
            and not self._log_part(has_ended=metadata["state"] != "Running")
            and all(part is None for _, part, *_ in self._unsent_parts())
            and self.artifacts.are_sent(metadata)
            and (not any(edges.values()) or self.state.parts.get("edges") == _digest_of(edges))
            and self.state.parts.get("metadata") == _digest_of(self._metadata_parts(metadata))
        )

    def done(self) -> None:
        """Notes that the run has ended and all of it was acknowledged."""
        self.state.is_done = True
        self._save()

    def note(self, error: EmError) -> None:
        """Notes why a step failed, for whoever looks."""
        self.state.problem = str(error)
        with suppress(StoreError):
            self.state.save(self._run_dir)

    def _count(self, body_bytes: int) -> None:
        self.report.record_bytes += body_bytes

    def _save(self) -> None:
        self.state.problem = ""
        self.state.save(self._run_dir)
        if self._on_sent is not None:
            self._on_sent()

    def _acknowledge(self, part: str, digest: str) -> None:
        self.state.parts[part] = digest
        self._save()

    def _make(self, metadata: Mapping[str, Any]) -> None:
        name = str(metadata.get("name") or "default")
        target = self.state.target
        placement = target.placement(self._session.user, name, str(metadata.get("alternative_name") or name))
        if target.conflict_strategy in ("skip", "error"):
            # One small request instead of one that may be long.
            path = absolute_path(f"{placement['folder']}/{name}", self._session.user)
            there = runs.find(self._session, path)
            if there is not None and there.get("client_id") != self.state.client_id:
                if target.conflict_strategy == "error":
                    hint = "conflict_strategy 'new' or 'replace'"
                    raise ConflictError(f"{self._what}: {path} is there already", hint=hint)
                self._place(nodes.node_of(there.get("node"), self._what), is_ours=False)
                return
        parts = {**self._metadata_parts(metadata), "state": "Running"}
        parts.pop("end_timestamp", None)
        body = {"client_id": self.state.client_id, "placement": placement, **parts}
        with telling_of_make_folder(is_made=target.make_folder):
            made = runs.create(self._session, body, self._what)
        node = nodes.node_of(made.get("node"), self._what)
        if made.get("created"):
            self.state.parts["metadata"] = _digest_of(parts)
            self._place(node, is_ours=True)
        else:  # an answer that was lost, or with `skip` somebody who was faster
            found = runs.get(self._session, node.id, self._what)
            self._place(node, is_ours=found.get("client_id") == self.state.client_id)

    def _place(self, node: nodes.Node, *, is_ours: bool) -> None:
        self.node = node
        self.state.server, self.state.is_skipped = self._session.url, not is_ours
        if is_ours:
            self.state.node_id, self.state.path = node.id, node.path
            self.state.history = self._session.history = self._session.seen_history
        self._save()

    def _metadata_parts(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        known = ("start_timestamp", "end_timestamp", "labels", "description")
        parts = {name: metadata[name] for name in known if metadata.get(name)}
        hidden = {"state", "remote", *known}
        rest = {key: value for key, value in metadata.items() if key not in hidden}
        rest["associations"] = self.artifacts.associations(metadata)
        return {"state": metadata["state"], **parts, "metadata": document(rest)}

    def _unsent_parts(self) -> Iterator[tuple[str, dict[str, Any] | None, str, str, tuple[int, int]]]:
        """Name, content (None if it was acknowledged), digest, file and stamp of each part that may have changed."""
        for name, file in _PARTS.items():
            path = os.path.join(self._run_dir, file)
            if self._stamps.get(file) == (stamp := _stamp(path)):
                continue
            with suppress(NotFoundError):  # a run that died while it was made
                part = document(read_yaml(path))
                key = _digest_of(part)
                yield name, None if self.state.parts.get(name) == key else part, key, file, stamp

    def _kinds(self) -> list[str]:
        folder = os.path.join(self._run_dir, "metrics")
        names = os.listdir(folder) if os.path.isdir(folder) else []
        return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))

    def _rest(self, kind: str, limit_bytes: int = READ_BYTES) -> bytes:
        """Whole lines that are not acknowledged: at least one if there is one, else about `limit_bytes`."""
        sent = self.state.metrics.get(kind) or Sent()
        path = os.path.join(self._run_dir, "metrics", f"{kind}.yaml")
        with _opened(path) as file:
            file.seek(sent.offset)
            data = file.read(limit_bytes)
            return data + file.readline() if data and not data.endswith(b"\n") else data

    def _send_metrics(self, kind: str) -> None:
        sent = self.state.metrics.setdefault(kind, Sent())
        while True:
            data = self._rest(kind)
            data = data[: data.rfind(b"\n") + 1]  # a line that is being written, or that a crash tore
            if sent.batch_end is not None:
                data = data[: sent.batch_end - sent.offset]
            if not data:
                return
            length, batch = next_batch(data)
            if batch is not None:
                # Fixed before the first attempt: see `Sent.batch_end`.
                sent.batch_end = sent.offset + length
                self.state.save(self._run_dir)
                runs.put_metrics(
                    self._session, self.state.node_id, kind, self.state.session, sent.sequence, batch, self._what
                )
                sent.sequence += 1
            sent.offset, sent.batch_end = sent.offset + length, None
            self._save()

    def _log_part(self, *, has_ended: bool) -> bytes:
        """What comes next of the log."""
        with _opened(os.path.join(self._run_dir, "stdout.log"), is_optional=True) as file:
            file.seek(self.state.log_offset)
            data = file.read(max(0, min(LOG_BYTES, MAX_LOG_BYTES - self.state.log_offset)))
        # The last line is replaced until it ends: progress bars.
        return data if has_ended or len(data) == LOG_BYTES else data[: data.rfind(b"\n") + 1]

    def _send_log(self, *, has_ended: bool) -> None:
        while part := self._log_part(has_ended=has_ended):
            runs.put_log(self._session, self.state.node_id, self.state.log_offset, part, self._what)
            self.state.log_offset += len(part)
            self._save()

    def _beat(self, metadata: Mapping[str, Any]) -> None:
        if metadata["state"] == "Running" and time.monotonic() >= self._beat_at:
            runs.beat(self._session, self.state.node_id, self._what)
            self._beat_at = time.monotonic() + BEAT_S

    def _send_edges(self, metadata: Mapping[str, Any]) -> None:
        edges = self.artifacts.edges(metadata)
        if any(edges.values()) and self.state.parts.get("edges") != (key := _digest_of(edges)):
            runs.put_edges(self._session, self.state.node_id, edges, self._what)
            self._acknowledge("edges", key)


def read_metadata(run_dir: str) -> dict[str, Any]:
    """A run's metadata, with its `state` as `load_run` would find it."""
    stored = read_yaml(os.path.join(run_dir, _METADATA))
    state = stored.get("status") or "Running"
    if state == "Running" and heartbeat.is_gone(stored.get("process") or {}, run_dir):
        state = "Crashed"
    return {**stored, "state": state}


def _digest_of(value: Any) -> str:
    return _engine.digest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hex()


def _opened(path: str, *, is_optional: bool = False) -> IO[bytes]:
    try:
        return open(path, "rb")
    except FileNotFoundError:
        if is_optional:
            return open(os.devnull, "rb")
        raise StoreError(f"cannot read {path}: it is not there any more") from None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size
    except OSError:
        return (0, 0)

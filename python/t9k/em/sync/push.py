"""One run's directory to the server, as far as that lacks it.

```text
the run itself ─ parts of its record ─ metrics ─ log ─ sign of life ─ artifacts ─ edges
```

Each step sends what has grown and changed since the one before. What the server acknowledged is noted in the
directory's state; what it did not is sent again and counts once: the run by its client id, a batch of metrics by its
number, bytes of the log by their offset.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import IO, Any

from t9k.em import _engine
from t9k.em.artifact import Artifact, load_local
from t9k.em.capture import heartbeat
from t9k.em.client import nodes, runs
from t9k.em.client.placement import Target
from t9k.em.client.session import Session
from t9k.em.errors import ConflictError, EmError, NotFoundError, StoreError, TransferError
from t9k.em.run_files import read_yaml
from t9k.em.sync.batches import READ_BYTES, next_batch
from t9k.em.sync.documents import document
from t9k.em.sync.state import Sent, SentArtifact, SyncState
from t9k.em.transfer.progress import Report
from t9k.em.transfer.upload import Uploaded, upload_artifact
from t9k.protocol.runs import MAX_LOG_BYTES

BEAT_S = 20.0
"""The server takes a run for crashed after a few minutes without a sign of life."""

LOG_BYTES = 1 << 20
"""Of the log in one request."""

_PARTS = {"hparams": "hyperparameters.yaml", "platform": "platform.yaml", "git": "git.yaml"}
_METADATA = "metadata.yaml"
_SIDES = ("inputs", "outputs")


class Push:
    """Sends one run; its caller holds the run's lock. A context manager: leaving it waits for the artifact under way.

    Attributes:
        state: What was acknowledged; saved after each acknowledgement.
    """

    def __init__(self, session: Session, run_dir: str, state: SyncState) -> None:
        """Sends nothing yet.

        Raises:
            ConflictError: Another server has the run.
        """
        if state.node_id and state.server != session.url:
            raise ConflictError(
                f"the run {run_dir} is at {state.server}, and this is a session at {session.url}",
                hint="log in there; to send it here too, delete .sync.json in its directory",
            )
        self.state = state
        self._session = session
        self._run_dir = run_dir
        self._what = f"cannot upload run {os.path.basename(run_dir)!r}"
        self._stamps: dict[str, tuple[int, int]] = {}  # of files whose content was acknowledged
        self._beat_at = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="em-artifacts")
        self._uploads: dict[str, tuple[str, Future[Uploaded]]] = {}

    def __enter__(self) -> Push:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)

    def has_ended(self) -> bool:
        """Whether nothing more will be written by the run: it was finished, or its process is gone."""
        return bool(self._read_metadata()["state"] != "Running")

    def step(self, *, wait: bool = False) -> None:
        """Sends what the server lacks now.

        Args:
            wait: Whether for artifacts too; else they go on beside the next steps.

        Raises:
            EmError: What could not be sent, and why. What was acknowledged before stays so.
        """
        self._stamps[_METADATA] = _stamp(os.path.join(self._run_dir, _METADATA))
        metadata = self._read_metadata()
        if not self.state.node_id and not self.state.is_skipped:
            self._make(metadata)
        if self.state.is_skipped:
            return
        self._send_parts(metadata)
        for kind in self._kinds():
            self._send_metrics(kind)
        self._send_log(has_ended=metadata["state"] != "Running")
        self._beat(metadata)
        self._send_artifacts(wait=wait)
        self._send_edges()

    def is_complete(self) -> bool:
        """Whether the server has acknowledged all that the directory has now."""
        if self.state.is_skipped:
            return True
        metrics = all(b"\n" not in self._rest(kind, 1) for kind in self._kinds())
        log_bytes = min(_size(os.path.join(self._run_dir, "stdout.log")), MAX_LOG_BYTES)
        parts = all(stamp == _stamp(os.path.join(self._run_dir, name)) for name, stamp in self._stamps.items())
        artifacts = not self._uploads and all(self._digest_to_send(local) is None for local in self._locals())
        return metrics and self.state.log_offset >= log_bytes and parts and artifacts

    def done(self) -> None:
        """Notes that the run has ended and all of it was acknowledged."""
        self.state.is_done, self.state.problem = True, ""
        self.state.save(self._run_dir)

    def note(self, error: EmError) -> None:
        """Notes why a step failed, for whoever looks."""
        self.state.problem = str(error)
        with suppress(StoreError):
            self.state.save(self._run_dir)

    def _read_metadata(self) -> dict[str, Any]:
        """The run's metadata, with its state as `load_run` would find it."""
        stored = read_yaml(os.path.join(self._run_dir, _METADATA))
        state = stored.get("status") or "Running"
        if state == "Running" and heartbeat.is_gone(stored.get("process") or {}, self._run_dir):
            state = "Crashed"
        return {**stored, "state": state}

    def _make(self, metadata: Mapping[str, Any]) -> None:
        name = str(metadata.get("name") or "default")
        target = self.state.target
        placement = target.placement(self._session.user, name, str(metadata.get("alternative_name") or name))
        body = {"client_id": self.state.client_id, "placement": placement, **self._metadata_parts(metadata)}
        made = runs.create(self._session, body, self._what)
        node = nodes.node_of(made.get("node"), self._what)
        is_ours = bool(made.get("created")) or self._is_ours(node.id)
        self.state.server, self.state.is_skipped = self._session.url, not is_ours
        if is_ours:
            self.state.node_id, self.state.path = node.id, node.path
        self.state.problem = ""
        self.state.save(self._run_dir)

    def _is_ours(self, node_id: str) -> bool:
        """Whether a run that was there already is this one, from a request whose answer got lost."""
        return runs.get(self._session, node_id, self._what).get("client_id") == self.state.client_id

    def _metadata_parts(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        known = ("start_timestamp", "end_timestamp", "labels", "description")
        parts = {name: metadata[name] for name in known if metadata.get(name)}
        hidden = {"state", "remote", *known}
        rest = {key: value for key, value in metadata.items() if key not in hidden}
        return {"state": metadata["state"], **parts, "metadata": document(rest)}

    def _send_parts(self, metadata: Mapping[str, Any]) -> None:
        parts = self._metadata_parts(metadata)
        if self.state.parts.get("metadata") != (key := _digest_of(parts)):
            runs.change(self._session, self.state.node_id, parts, self._what)
            self._acknowledge("metadata", key)
        for name, file in _PARTS.items():
            path = os.path.join(self._run_dir, file)
            stamp = _stamp(path)
            if self._stamps.get(file) == stamp:
                continue
            with suppress(NotFoundError):  # a run that died while it was made
                part = document(read_yaml(path))
                if self.state.parts.get(name) != (key := _digest_of(part)):
                    runs.change(self._session, self.state.node_id, {name: part}, self._what)
                    self._acknowledge(name, key)
            self._stamps[file] = stamp

    def _acknowledge(self, part: str, digest: str) -> None:
        self.state.parts[part], self.state.problem = digest, ""
        self.state.save(self._run_dir)

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
            self.state.save(self._run_dir)

    def _send_log(self, *, has_ended: bool) -> None:
        path = os.path.join(self._run_dir, "stdout.log")
        while self.state.log_offset < MAX_LOG_BYTES:
            with _opened(path) as file:
                file.seek(self.state.log_offset)
                data = file.read(min(LOG_BYTES, MAX_LOG_BYTES - self.state.log_offset))
            # The last line is replaced until it ends: progress bars.
            whole = data if has_ended or len(data) == LOG_BYTES else data[: data.rfind(b"\n") + 1]
            if not whole:
                return
            runs.put_log(self._session, self.state.node_id, self.state.log_offset, whole, self._what)
            self.state.log_offset += len(whole)
            self.state.save(self._run_dir)

    def _beat(self, metadata: Mapping[str, Any]) -> None:
        if metadata["state"] == "Running" and time.monotonic() >= self._beat_at:
            runs.beat(self._session, self.state.node_id, self._what)
            self._beat_at = time.monotonic() + BEAT_S

    def _marks(self) -> Iterator[tuple[str, dict[str, str]]]:
        associations = self._read_metadata().get("associations") or {}
        for side in _SIDES:
            for mark in associations.get(side) or []:
                yield side, mark

    def _locals(self) -> list[str]:
        """Directories of the artifacts that the run read or made and that are not known to be on the server."""
        found: dict[str, None] = {}
        for _, mark in self._marks():
            local = mark.get("local")
            if mark.get("type") == "Artifact" and local and os.path.isdir(local):
                found[local] = None
        return list(found)

    def _digest_to_send(self, local: str) -> str | None:
        """The digest of the manifest that the server lacks; None if it has it, or there is none to send."""
        try:
            digest = _engine.manifest_digest(local)
        except _engine.EngineError:
            return None  # deleted meanwhile
        sent = self.state.artifacts.get(local)
        return None if sent is not None and sent.digest == digest else digest

    def _send_artifacts(self, *, wait: bool) -> None:
        for local in self._locals():
            digest = self._digest_to_send(local)
            if digest is not None and local not in self._uploads:
                self._uploads[local] = digest, self._thread.submit(self._upload, local)
        failure: EmError | None = None
        for local, (digest, future) in list(self._uploads.items()):
            if not wait and not future.done():
                continue
            del self._uploads[local]
            try:
                uploaded = future.result()
            except EmError as error:
                failure = error
                continue
            self.state.artifacts[local] = SentArtifact(digest, uploaded.node_id)
            self.state.save(self._run_dir)
        if failure is not None:
            # Whatever it is, the run itself goes on: see `helper.LASTING`.
            raise TransferError(str(failure)) from failure

    def _upload(self, local: str) -> Uploaded:
        artifact = load_local(local)
        if (known := _known_at(artifact, self._session)) is not None:
            return known
        # Another artifact under this name is somebody's: neither taken for this one, nor replaced.
        target = Target(self.state.folder, self.state.make_folder, "new")
        sent = self.state.artifacts.get(local)
        if sent is not None:
            with suppress(NotFoundError):  # somebody deleted it there: then it goes there anew
                return upload_artifact(self._session, artifact, target, version_of=sent.node_id)
        return upload_artifact(self._session, artifact, target)

    def _send_edges(self) -> None:
        edges: dict[str, list[dict[str, str]]] = {side: [] for side in _SIDES}
        for side, mark in self._marks():
            sent = self.state.artifacts.get(mark.get("local") or "")
            name = {"type": str(mark.get("type")), "name": str(mark.get("name"))}
            edges[side].append({"id": sent.node_id} if sent is not None else name)
        key = _digest_of(edges)
        if self.state.parts.get("edges") == key or not any(edges.values()):
            return
        runs.put_edges(self._session, self.state.node_id, edges, self._what)
        self._acknowledge("edges", key)


def _known_at(artifact: Artifact, session: Session) -> Uploaded | None:
    """Where an artifact is that was loaded from, or sent to, this server with the files that it has now."""
    digest = _engine.manifest_digest(artifact.local)
    for transfer in reversed(artifact.remote):
        if transfer.get("host") == session.url and transfer.get("digest") == digest:
            node = nodes.find(session, transfer["path"])
            return None if node is None else Uploaded(node.path, node.id, False, Report())
    return None


def _digest_of(value: Any) -> str:
    import json

    return _engine.digest(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hex()


def _opened(path: str) -> IO[bytes]:
    try:
        return open(path, "rb")
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size
    except OSError:
        return (0, 0)


def _size(path: str) -> int:
    return _stamp(path)[1]

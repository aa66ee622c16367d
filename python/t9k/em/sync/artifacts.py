"""The artifacts that a run has marked, on their way to the server that gets the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from t9k.em import _engine
from t9k.em.artifact import Artifact, load_local
from t9k.em.client import artifacts
from t9k.em.client.placement import Target
from t9k.em.client.session import Session
from t9k.em.errors import EmError, InvalidInputError, NotFoundError
from t9k.em.sync.state import SentArtifact, SyncState
from t9k.em.transfer.progress import Report
from t9k.em.transfer.upload import Uploaded, upload_artifact

SIDES = ("inputs", "outputs")

_Metadata = Mapping[str, Any]


class MarkedArtifacts:
    """Sends them, and says where they are. What the server has is noted in the run's state; its owner saves that."""

    def __init__(self, session: Session, state: SyncState, save: Callable[[], None], report: Report) -> None:
        """Sends nothing yet.

        Args:
            session: The server.
            state: Of the run.
            save: Called when an artifact was acknowledged.
            report: Is told what they took.
        """
        self._report = report
        self._session = session
        self._state = state
        self._save = save
        self._thread: ThreadPoolExecutor | None = None
        self._uploads: dict[str, tuple[str, Future[Uploaded]]] = {}

    def close(self) -> None:
        """Waits for the artifact under way; those behind it are not begun."""
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def send(self, metadata: _Metadata) -> EmError | None:
        """Sends those that the server lacks, one after the other; answers what the last that failed met."""
        failure: EmError | None = None
        for local, digest in self._unsent(metadata):
            try:
                self._acknowledge(local, digest, self._upload(local))
            except EmError as error:
                failure = error
        return failure

    def send_beside(self, metadata: _Metadata) -> EmError | None:
        """As `send`, but returns at once: they go up in a thread, and later calls tell what became of them."""
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="em-artifacts")
        for local, digest in self._unsent(metadata):
            if local not in self._uploads:
                self._uploads[local] = digest, self._thread.submit(self._upload, local)
        failure: EmError | None = None
        for local, (digest, future) in list(self._uploads.items()):
            if not future.done():
                continue
            del self._uploads[local]
            try:
                self._acknowledge(local, digest, future.result())
            except EmError as error:
                failure = error
        return failure

    def are_sent(self, metadata: _Metadata) -> bool:
        """Whether the server has acknowledged all of them as they are now."""
        return not self._uploads and next(self._unsent(metadata), None) is None

    def associations(self, metadata: _Metadata) -> dict[str, list[dict[str, str]]]:
        """The marks as the server keeps them: with the path of a node instead of a directory of this machine."""
        found: dict[str, list[dict[str, str]]] = {side: [] for side in SIDES}
        for side, mark in _marks(metadata):
            known = {key: value for key, value in mark.items() if key != "local"}
            sent = self._state.artifacts.get(mark.get("local") or "")
            found[side].append({**known, "path": sent.path} if sent is not None and sent.path else known)
        return found

    def edges(self, metadata: _Metadata) -> dict[str, list[dict[str, str]]]:
        """What the run read and made, as a request takes it."""
        found: dict[str, list[dict[str, str]]] = {side: [] for side in SIDES}
        for side, mark in _marks(metadata):
            sent = self._state.artifacts.get(mark.get("local") or "")
            if sent is not None:
                found[side].append({"id": sent.node_id})
            elif "path" in mark:  # of a run that was loaded from the server
                found[side].append({"path": mark["path"]})
            else:
                found[side].append({"type": str(mark.get("type")), "name": str(mark.get("name"))})
        return found

    def _unsent(self, metadata: _Metadata) -> Iterator[tuple[str, str]]:
        """Directory, and digest of the manifest, of each that the server is not known to have as it is now."""
        marks = (mark for _, mark in _marks(metadata) if mark.get("type") == "Artifact")
        for local in dict.fromkeys(mark.get("local") or "" for mark in marks):
            if not os.path.isfile(os.path.join(local, ".artifact", "metadata.json")):
                continue  # deleted meanwhile, or of another machine
            try:
                digest = _engine.manifest_digest(local)
            except _engine.EngineError:
                continue
            sent = self._state.artifacts.get(local)
            if sent is None or sent.digest != digest:
                yield local, digest

    def _upload(self, local: str) -> Uploaded:
        artifact = load_local(local)
        if (known := self._known(artifact)) is not None:
            return known
        # The strategy is about the run's name: an artifact is never taken for another one, nor replaces it.
        target = Target(self._state.folder, self._state.make_folder, "new")
        sent = self._state.artifacts.get(local)
        if sent is not None:
            with suppress(NotFoundError):  # somebody deleted it there: then it goes there anew
                return upload_artifact(self._session, artifact, target, version_of=sent.node_id)
        return upload_artifact(self._session, artifact, target)

    def _known(self, artifact: Artifact) -> Uploaded | None:
        """Where one is that was loaded from, or sent to, this server with the files that it has now."""
        digest = _engine.manifest_digest(artifact.local)
        for line in reversed(artifact.remote):
            if line.get("host") == self._session.url and line.get("digest") == digest:
                try:  # the server may have been restored from a backup that has another version there
                    version = artifacts.resolve(self._session, f"{line.get('path', '')}@{digest}")
                except (NotFoundError, InvalidInputError):
                    return None
                return Uploaded(version.path, version.node_id, False, Report())
        return None

    def _acknowledge(self, local: str, digest: str, uploaded: Uploaded) -> None:
        self._state.artifacts[local] = SentArtifact(digest, uploaded.node_id, uploaded.path)
        self._report += uploaded.report
        self._save()


def _marks(metadata: _Metadata) -> Iterator[tuple[str, dict[str, str]]]:
    associations = metadata.get("associations") or {}
    for side in SIDES:
        for mark in associations.get(side) or []:
            yield side, mark

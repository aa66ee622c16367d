"""Upload of one artifact.

```text
manifest ─ plan (which objects are unknown?) ─ missing (which chunks?) ─ packs ─ commit ─ remote history
```

The server alone says what it has: nothing is remembered here between calls, so a server that was restored from an older
backup is sent what it lacks, and a call that was interrupted is continued by any other, from any process or host.
"""

from __future__ import annotations

import json
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from t9k.em import _engine
from t9k.em.artifact import Artifact, store_dir
from t9k.em.client import artifacts, nodes
from t9k.em.client.placement import Target, absolute_path, telling_of_make_folder
from t9k.em.errors import (
    ConflictError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    StoreError,
    TransferError,
    translated,
)
from t9k.em.transfer.fetch import WHOLE_BYTES, split
from t9k.em.transfer.history import entry
from t9k.em.transfer.packs import Sender
from t9k.em.transfer.progress import Report, TransferProgress
from t9k.protocol import MAX_MANIFEST_ENTRIES
from t9k.protocol.manifests import entry_count

if TYPE_CHECKING:
    from t9k.em.client.session import Session

COMMITS = 5
"""Tries of one commit, between which the chunks are sent that it found gone."""

BODY_IN_MEMORY_BYTES = 16 << 20
"""A longer body of a commit waits in a temporary file."""

TABLE_BLOCK_BYTES = 1 << 20
"""Of a chunk table that are read at once."""


@dataclass(frozen=True)
class Uploaded:
    """Where an artifact is on the server now.

    Attributes:
        path: Of its node.
        node_id: Of its node.
        is_created: False if the name was taken and the strategy is `skip`.
        report: What was sent.
    """

    path: str
    node_id: str
    is_created: bool
    report: Report


def upload_artifact(session: Session, artifact: Artifact, target: Target, *, version_of: str | None = None) -> Uploaded:
    """Uploads an artifact; when this returns the server has all of it durably.

    Args:
        session: The server.
        artifact: With a local directory.
        target: Where it goes.
        version_of: Id of a node that gets a new version instead; `target` does not count then.

    Raises:
        ConflictError: The name is taken, and the strategy says that this is an error.
        NotFoundError: There is no such folder, and `make_folder` is false; or the artifact lacks files.
        IntegrityError: A stored file is damaged; the message names the path in the artifact.
        AuthError, StoreError, TransferError: As everywhere.
    """
    what = f"cannot upload artifact {artifact.alternative_name or artifact.name!r}"
    place: dict[str, Any] = {"artifact_id": version_of}
    if version_of is None:
        placement = target.placement(session.user, artifact.name, artifact.alternative_name or artifact.name)
        place = {"placement": placement}
        if (taken := _taken(session, placement, what)) is not None:
            return Uploaded(taken.path, taken.id, False, Report())
    store = store_dir()
    with naming_paths(artifact, store), _engine.Lease(store) as lease, TransferProgress("upload") as progress:
        manifest = _engine.read_manifest(artifact.local)
        _check_entries(manifest, what)
        objects = _objects(manifest, progress)
        unknown = [objects[index] for index in artifacts.plan(session, objects)]
        if unknown and version_of is None and not target.make_folder:
            _check_folder(session, place["placement"]["folder"], what)
        sender = Sender(session, store, lease, progress)
        sender.send(unknown)
        body = _Body(artifact, manifest, place)
        with telling_of_make_folder(is_made=target.make_folder):
            document = _commit(sender, objects, unknown, body, what, progress.report)
    node = nodes.node_of(document.get("node"), what)
    if document.get("created") is not True:  # with `skip`, somebody else was faster
        return Uploaded(node.path, node.id, False, progress.report)
    if not session.is_dry:
        artifact.remember(entry("upload", session, node.path, body.digest))
    return Uploaded(node.path, node.id, True, progress.report)


def _check_entries(manifest: bytes, what: str) -> None:
    """Refuses before anything is sent what the server would refuse in the end."""
    entries = entry_count(manifest) or 0
    if entries > MAX_MANIFEST_ENTRIES:
        raise InvalidInputError(
            f"{what}: it has {entries} files, and an artifact on a server has at most {MAX_MANIFEST_ENTRIES}",
            hint="put small files into archives, or make several artifacts",
        )


def _taken(session: Session, placement: dict[str, Any], what: str) -> nodes.Node | None:
    """The node that makes the upload needless. One small request spares the bytes of an upload that would fail."""
    strategy = placement["conflict_strategy"]
    if strategy not in ("skip", "error"):
        return None
    path = absolute_path(f"{placement['folder']}/{placement['name']}", session.user)
    there = nodes.find(session, path)
    if there is None:
        return None
    if strategy == "error":
        raise ConflictError(f"{what}: {path} is there already", hint="conflict_strategy 'new', 'skip' or 'replace'")
    if there.kind != "Artifact":
        raise ConflictError(f"{what}: {path} is a {there.kind}, not an Artifact", hint="conflict_strategy 'new'")
    return there


def _check_folder(session: Session, folder: str, what: str) -> None:
    """Finds out before all bytes are sent, and not by the commit, that there is no such folder."""
    if nodes.find(session, folder) is None:
        with telling_of_make_folder():
            raise NotFoundError(f"{what}: there is no folder {folder}")


def _objects(manifest: bytes, progress: TransferProgress) -> list[tuple[bytes, int]]:
    digests, sizes = _engine.manifest_objects(manifest)
    objects = list(zip(split(digests), memoryview(sizes).cast("Q"), strict=True))
    progress.begin(len(objects), sum(size for _, size in objects))
    return objects


@contextmanager
def naming_paths(artifact: Artifact, store: str) -> Iterator[None]:
    """Raises the engine's errors as ours; one about a stored object tells the paths of the artifact that need it."""
    try:
        with translated():
            yield
    except (IntegrityError, NotFoundError, StoreError) as error:
        with translated():
            entries = _engine.read_entries(artifact.local)
            files = [(path, bytes.fromhex(digest), size or 0) for path, _, size, digest, *_ in entries if digest]
            bad = [path for path, digest, size in files if not _engine.usable(store, digest, size)]
        if not bad:
            raise
        shown = ", ".join(repr(path) for path in bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
        hint = f"add {shown} to the artifact again"
        raise type(error)(f"the store has no whole copy of {shown} of {artifact.local}: {error}", hint=hint) from None


class _Body:
    """The body of a commit, with or without the manifest and chunk tables."""

    def __init__(self, artifact: Artifact, manifest: bytes, place: dict[str, Any]) -> None:
        self.digest = _engine.digest(manifest).hex()
        self._manifest = manifest
        fields = ("name", "labels", "description", "created_timestamp", "alternative_name")
        document = {
            "manifest_digest": self.digest,
            **place,
            "metadata": {field: getattr(artifact, field) for field in fields},
        }
        head = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
        self._head = len(head).to_bytes(4, "little") + head

    @contextmanager
    def short(self) -> Iterator[IO[bytes]]:
        """Without a manifest."""
        yield from self._file([])

    @contextmanager
    def whole(self, store: str, objects: Sequence[tuple[bytes, int]]) -> Iterator[IO[bytes]]:
        """With the manifest, and the chunk tables of these objects."""
        yield from self._file(self._tables(store, objects))

    def _file(self, tables: Iterator[bytes] | Sequence[bytes]) -> Iterator[IO[bytes]]:
        with tempfile.SpooledTemporaryFile(max_size=BODY_IN_MEMORY_BYTES) as file:
            file.write(self._head)
            is_short = isinstance(tables, list)
            manifest = b"" if is_short else self._manifest
            file.write(len(manifest).to_bytes(8, "little") + manifest)
            file.writelines(tables)
            yield file

    def _tables(self, store: str, objects: Sequence[tuple[bytes, int]]) -> Iterator[bytes]:
        for digest, size in objects:
            if size <= WHOLE_BYTES:
                continue
            table = _engine.ChunkTable(store, digest)
            yield digest + table.table_bytes.to_bytes(8, "little")
            for offset in range(0, table.table_bytes, TABLE_BLOCK_BYTES):
                yield table.read(offset, TABLE_BLOCK_BYTES)


def _commit(
    sender: Sender,
    objects: list[tuple[bytes, int]],
    unknown: list[tuple[bytes, int]],
    body: _Body,
    what: str,
    report: Report,
) -> dict[str, Any]:
    """The server's answer. What it finds gone is sent, and the commit tried again under the same key."""
    key = secrets.token_urlsafe(16)
    is_short = not unknown
    for _ in range(COMMITS):
        with body.short() if is_short else body.whole(sender.store, unknown) as file:
            report.record_bytes += file.tell()
            answer = artifacts.commit(sender.session, file, sender.lease, key, what)
        if answer.status != 409:
            document = answer.json()
            if not isinstance(document, dict):
                raise TransferError(f"{what}: the server's answer has another form")
            return document
        problem = answer.problem()
        if problem.members.get("missing_manifest") is True and is_short:
            is_short = False
        elif problem.members.get("missing"):
            # The server lost something after it had said that it was there: ask about every chunk.
            is_short, unknown = False, objects
            sender.send(unknown)
        else:
            raise problem.error(what)
    raise TransferError(f"{what}: the server loses chunks as fast as they are sent", hint="try again later")

"""Download of one artifact.

```text
path ─ version ─ manifest ─ objects into the store ─ links into a directory that appears whole
```
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from t9k.em import _engine
from t9k.em.artifact import Artifact, artifact_parent_dir, load_local, store_dir
from t9k.em.client import artifacts
from t9k.em.client.artifacts import Version
from t9k.em.client.placement import absolute_path
from t9k.em.errors import ConflictError, EmError, translated
from t9k.em.linked import tell
from t9k.em.progress import Progress
from t9k.em.run_files import make_run_dir
from t9k.em.transfer.fetch import fetch, split
from t9k.em.transfer.history import entry
from t9k.em.transfer.progress import TransferProgress

if TYPE_CHECKING:
    from t9k.em.client.session import Session

MAX_DIRECTORY_BYTES = 200
"""A longer alternative name, or one that no client makes, is not used for a directory."""


def download_artifact(session: Session, path: str, into: str | None = None) -> Artifact:
    """Loads an artifact from the server.

    Args:
        session: The server.
        path: `/<user>/…`, or relative to the user's root; perhaps with `:alias` or `@digest` behind it.
        into: The directory it becomes; by default `EM_ARTIFACT_PARENT_DIR/<alternative name>`, or another one below
            the same parent if that is another artifact. One that holds this version already is loaded as it is.

    Raises:
        NotFoundError: There is nothing at that path.
        ConflictError: `into` is something else.
        IntegrityError: The server's bytes are wrong, twice. Nothing of them is in the store or the directory.
        AuthError, StoreError, TransferError: As everywhere.
    """
    version = artifacts.resolve(session, absolute_path(path, session.user))
    for directory in [into] if into is not None else _directories(version):
        if _holds(directory, version):
            return load_local(directory)
    manifest = artifacts.manifest(session, version)
    store = store_dir()
    with translated(), TransferProgress("load") as progress:
        digests, sizes = _engine.manifest_objects(manifest)
        objects = list(zip(split(digests), memoryview(sizes).cast("Q"), strict=True))
        progress.begin(len(objects), sum(size for _, size in objects))
        fetch(session, version, store, objects, progress)
    return _materialize(session, version, manifest, store, into)


def _directories(version: Version) -> list[str]:
    """Where a version may be already: the same artifact and version loaded twice is one directory."""
    parent, name = artifact_parent_dir(), _directory_name(version)
    return [os.path.join(parent, name), os.path.join(parent, f"{name}@{version.manifest_digest[:12]}")]


def _directory_name(version: Version) -> str:
    """The alternative name, if that comes from a client like this one and not from somebody who wants another path."""
    name = version.metadata.get("alternative_name")
    if isinstance(name, str) and _is_plain(name):
        return name
    return version.node_id if version.node_id.isalnum() else version.manifest_digest


def _is_plain(name: str) -> bool:
    bad = not name or name[0] == "." or "/" in name or "\\" in name or not name.isprintable()
    return not bad and len(name.encode(errors="replace")) <= MAX_DIRECTORY_BYTES


def _holds(directory: str, version: Version) -> bool:
    try:
        return _engine.manifest_digest(directory) == version.manifest_digest
    except _engine.EngineError:  # no artifact, or none that can be read
        return False


def _materialize(session: Session, version: Version, manifest: bytes, store: str, into: str | None) -> Artifact:
    metadata = json.dumps(metadata_of(session, version), indent=1, ensure_ascii=False).encode() + b"\n"
    tried: EmError | None = None
    for directory in [into] if into is not None else [*_directories(version), ""]:
        # The last one is new: make_run_dir's, which is empty.
        target = directory or make_run_dir(artifact_parent_dir(), _directory_name(version)[:150])[0]
        try:
            with translated(), Progress("link") as progress:
                linked = _engine.materialize(store, os.path.abspath(target), manifest, metadata, progress)
            tell(linked, target, store)
            return load_local(target)
        except ConflictError as error:
            tried = error
    assert tried is not None
    raise tried


def metadata_of(session: Session, version: Version) -> dict[str, Any]:
    """What a local copy of a version says of itself."""
    known = version.metadata
    name = known.get("name") or version.path.rpartition("/")[2]
    return {
        "name": name,
        "labels": known.get("labels") or [],
        "description": known.get("description") or "",
        "created_timestamp": known.get("created_timestamp") or "",
        "alternative_name": known.get("alternative_name") or name,
        "remote": [entry("download", session, version.path, version.manifest_digest)],
    }

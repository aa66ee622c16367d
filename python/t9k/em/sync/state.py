"""What the server has acknowledged of a run: ``.sync.json`` in its directory, replaced whole at each step."""

from __future__ import annotations

import json
import os
import secrets
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

from t9k.em.client.placement import Target
from t9k.em.errors import InvalidInputError, StoreError

FILE = ".sync.json"
VERSION = 1
MAX_FILE_BYTES = 16 << 20


@dataclass
class Sent:
    """What was sent of one metrics file.

    Attributes:
        offset: Bytes that the server has acknowledged, whole lines.
        sequence: Number of the next batch.
        batch_end: Where the batch ends that is on its way. It is fixed before the first attempt, so that each
            further one, by whichever process, sends the same batch under the same number; None if there is none.
    """

    offset: int = 0
    sequence: int = 0
    batch_end: int | None = None


@dataclass
class SentArtifact:
    """An artifact that the server has: the digest of its manifest when it was sent, its node, and the path of that."""

    digest: str
    node_id: str
    path: str = ""


@dataclass
class SyncState:
    """Where a run goes and how much of it is there.

    Attributes:
        folder: As `create_run` or `Run.upload` got it.
        client_id: The server makes one run for each, however often it is asked.
        session: Names the sequence numbers of this directory's batches.
        history: Of that server's database when it acknowledged this. Another one was restored from a backup, and may
            lack some of it: see `go_back`. Empty where this directory did not make the run there.
        server: URL of the server that has the run; empty before it has.
        node_id: Of the run there; empty before it has one.
        path: Of the run there.
        metrics: By type.
        log_offset: Bytes of `stdout.log` that were acknowledged.
        parts: Digest of each part of the record that was acknowledged.
        artifacts: Those that are on the server, by their local directories.
        is_home: The run lives there, because of `auto_upload` or because it was loaded from there: what is added to it
            goes there too. Of other uploads, each that was finished is a copy, and the next one makes another.
        is_skipped: The name was taken and the strategy is ``skip``: nothing is sent.
        is_done: The run has ended, and all of it was acknowledged.
        problem: Why the last attempt failed; empty if it did not.
    """

    folder: str = "default"
    make_folder: bool = False
    conflict_strategy: str = "new"
    client_id: str = field(default_factory=lambda: secrets.token_hex(16))
    session: str = field(default_factory=lambda: secrets.token_hex(8))
    history: str = ""
    server: str = ""
    node_id: str = ""
    path: str = ""
    metrics: dict[str, Sent] = field(default_factory=dict)
    log_offset: int = 0
    parts: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, SentArtifact] = field(default_factory=dict)
    is_home: bool = False
    is_skipped: bool = False
    is_done: bool = False
    problem: str = ""

    @property
    def target(self) -> Target:
        """Where the run goes."""
        return Target(self.folder, self.make_folder, self.conflict_strategy)

    def save(self, run_dir: str) -> None:
        """Replaces the file.

        Raises:
            StoreError: It cannot be written.
        """
        path = os.path.join(run_dir, FILE)
        temporary = f"{path}.tmp"  # one process at a time writes it: see `lock`
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump({"version": VERSION, **asdict(self)}, file, ensure_ascii=False)
            os.replace(temporary, path)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from error


def load(run_dir: str) -> SyncState | None:
    """The state of a run; None if it was never meant to be sent.

    Raises:
        InvalidInputError: The file holds something else.
        StoreError: It cannot be read.
    """
    path = os.path.join(run_dir, FILE)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    hint = "delete it: the next upload then begins anew, as another run"
    try:
        document: dict[str, Any] = json.loads(data)
        if document.pop("version") != VERSION or len(data) > MAX_FILE_BYTES:
            raise ValueError("another version")
        document["metrics"] = {kind: Sent(**sent) for kind, sent in document["metrics"].items()}
        document["artifacts"] = {local: SentArtifact(**sent) for local, sent in document["artifacts"].items()}
        return SyncState(**document)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not the state of an upload: {error}", hint=hint) from None


class _Unsaved(SyncState):
    def save(self, run_dir: str) -> None:
        """Writes nothing."""


def unsaved(state: SyncState) -> SyncState:
    """A state that is kept nowhere, for what is only tried."""
    return _Unsaved(**vars(deepcopy(state)))


def restore(run_dir: str, state: SyncState | None) -> None:
    """Makes the file what it was; removes it if there was none."""
    if state is not None:
        state.save(run_dir)
        return
    with suppress(OSError):
        os.unlink(os.path.join(run_dir, FILE))


def saved_at(run_dir: str) -> float:
    """When the state was written last, in seconds since 1970."""
    try:
        return os.stat(os.path.join(run_dir, FILE)).st_mtime
    except OSError:
        return 0.0

"""Download of one run.

```text
path ─ record ─ metrics page by page ─ log ─ a directory that appears whole
```

The directory is one that `create_run` could have made. It also knows how far the server is, so that a script which
loads it with `auto_upload` continues the run there.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from t9k.em.client import nodes, runs
from t9k.em.client.placement import absolute_path
from t9k.em.errors import NotFoundError, StoreError, TransferError
from t9k.em.metrics import canonical_type, encode_line
from t9k.em.run_files import check_name, read_yaml, write_yaml
from t9k.em.runs.record import run_parent_dir
from t9k.em.sync.state import Sent, SyncState
from t9k.em.transfer.batches import stamp_of
from t9k.em.transfer.history import entry
from t9k.protocol.metric_batch import NO_EPOCH, Batch, decode_batch, logged

if TYPE_CHECKING:
    from t9k.em.client.session import Session


def download_run(session: Session, path: str) -> str:
    """Loads a run from the server; answers its local directory.

    A directory of the same alternative name that came from there before, or went there, is the run already: it is
    left as it is.

    Args:
        session: The server.
        path: `/<user>/…`, or relative to the user's root.

    Raises:
        NotFoundError: There is no run at that path.
        AuthError, StoreError, TransferError: As everywhere.
    """
    path = absolute_path(path, session.user)
    what = f"cannot load {path!r} from {session.url}"
    record = runs.find(session, path)
    if record is None:
        there = nodes.find(session, path, follow=True)
        if there is None or there.kind == "Run":
            raise NotFoundError(f"{what}: there is no run at {path}")
        hint = "em.load_artifact loads it" if there.kind == "Artifact" else None
        raise NotFoundError(f"{what}: what is at {path} is no run: {there.kind}", hint=hint)
    node = nodes.node_of(record.get("node"), what)
    metadata = _metadata(record, node, what)
    metadata["remote"] = [entry("download", session, node.path)]
    parent = os.path.abspath(run_parent_dir())
    target = os.path.join(parent, str(metadata["alternative_name"]))
    if _is_from(target, session.url, node.path):
        return target
    temporary = os.path.join(parent, f".tmp-{secrets.token_hex(16)}")
    state = SyncState(
        folder=node.path.rpartition("/")[0],
        client_id=str(record.get("client_id")),
        server=session.url,
        node_id=node.id,
        path=node.path,
        is_home=True,
        is_done=True,  # nothing of it waits to be sent
    )
    try:
        os.makedirs(os.path.join(temporary, "metrics"))
        for kind, points in runs.metric_counts(session, node.id, what).items():
            file = os.path.join(temporary, "metrics", f"{canonical_type(kind)}.yaml")
            _write_metrics(session, node.id, kind, points, file, what)
            state.metrics[kind] = Sent(offset=os.path.getsize(file))
        with open(os.path.join(temporary, "stdout.log"), "wb") as log:
            log.writelines(runs.read_log(session, node.id, what))
            state.log_offset = log.tell()
        write_yaml(os.path.join(temporary, "metadata.yaml"), metadata)
        for name, document in (("hyperparameters", "hparams"), ("platform", "platform"), ("git", "git")):
            write_yaml(os.path.join(temporary, f"{name}.yaml"), _document(record, document, what))
        index = {kind: f"metrics/{kind}.yaml" for kind in sorted(state.metrics)}
        files = {name: f"{name}.yaml" for name in ("hyperparameters", "platform", "git")}
        write_yaml(os.path.join(temporary, "index.yaml"), {**files, "log": "stdout.log", "metrics": index})
        state.save(temporary)
        return _appear(temporary, target)
    except OSError as error:
        raise StoreError(f"{what}: {error.strerror}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _metadata(record: Mapping[str, Any], node: nodes.Node, what: str) -> dict[str, Any]:
    """The run's metadata as `create_run` writes it. The name becomes a directory's: it is checked."""
    stored = _document(record, "metadata", what)
    alternative = stored.get("alternative_name")
    name = check_name(str(stored.get("name") or node.name))
    state = str(record.get("state") or "Running")
    known = {
        "name": name,
        "alternative_name": check_name(alternative) if isinstance(alternative, str) else f"{name}_{node.id}",
        "labels": record["node"].get("labels") or [],
        "description": record["node"].get("description") or "",
        "start_timestamp": str(record.get("start_timestamp") or ""),
        "end_timestamp": str(record.get("end_timestamp") or ""),
        # Its process is not of this machine, and nobody here can tell whether it lives.
        "status": "Crashed" if state == "Running" else state,
        "associations": stored.get("associations") or {},
    }
    return known | {key: stored[key] for key in ("error", "lost_log_lines") if key in stored}


def _document(record: Mapping[str, Any], name: str, what: str) -> dict[str, Any]:
    document = record.get(name)
    if not isinstance(document, dict):
        raise TransferError(f"{what}: the server's answer has another form")
    return dict(document)


def _is_from(directory: str, server: str, path: str) -> bool:
    try:
        remote = read_yaml(os.path.join(directory, "metadata.yaml")).get("remote") or []
    except NotFoundError:
        return False
    return any(line.get("host") == server and line.get("path") == path for line in remote if isinstance(line, dict))


def _write_metrics(session: Session, node_id: str, kind: str, points: int, file: str, what: str) -> None:
    written = 0
    with open(file, "wb") as output:
        for data in runs.read_metrics(session, node_id, kind, what):
            try:
                batch = decode_batch(data)
            except ValueError as error:
                raise TransferError(f"{what}: the server's answer is no batch of metrics: {error}") from None
            output.writelines(_lines(batch))
            written += len(batch)
    if written < points:
        raise TransferError(f"{what}: {points - written} points of {kind!r} did not come")


def _lines(batch: Batch) -> Iterator[bytes]:
    columns = [(name, column, logged(column)) for name, column in batch.values.items()]
    for index, step in enumerate(batch.steps):
        metrics = {name: column[index] for name, column, is_there in columns if is_there[index]}
        epoch = None if batch.epochs[index] == NO_EPOCH else batch.epochs[index]
        if metrics:
            yield encode_line(metrics, step, epoch, stamp_of(batch.times_us[index]))


def _appear(temporary: str, target: str) -> str:
    """Gives the directory its name, or one beside it where another run has that."""
    for name in (target, *(f"{target}-{number}" for number in range(2, 100))):
        try:
            os.rename(temporary, name)
            return name
        except OSError:  # a directory that is not empty is never replaced
            if not os.path.exists(name):
                raise
    raise StoreError(f"there are too many directories like {target}")

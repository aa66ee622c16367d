"""Upload of one run.

```text
artifacts that are not there ─ record ─ metrics in batches ─ log ─ edges ─ final state ─ remote history
```

A call that was interrupted is continued by the next one: the server tells how much of metrics and log it has.
"""

from __future__ import annotations

import hashlib
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from t9k.em import _engine
from t9k.em.artifact import load_local
from t9k.em.client import nodes, runs
from t9k.em.client.placement import Target, absolute_path
from t9k.em.errors import ConflictError, translated
from t9k.em.metrics import read_metrics
from t9k.em.transfer.batches import batches
from t9k.em.transfer.history import entry
from t9k.em.transfer.progress import Report
from t9k.em.transfer.upload import Uploaded, upload_artifact, weigh_artifact
from t9k.protocol.runs import MAX_LOG_BYTES, MAX_LOG_PART_BYTES

if TYPE_CHECKING:
    from t9k.em.client.session import Session
    from t9k.em.run import Run

SIDES = ("inputs", "outputs")


def upload_run(session: Session, run: Run, target: Target) -> Uploaded:
    """Uploads a run, and the artifacts that it has marked and the server lacks.

    Raises:
        ConflictError: The name is taken, and the strategy says that this is an error.
        NotFoundError: There is no such folder, and `make_folder` is false.
        EmError: As `upload_artifact`.
    """
    what = f"cannot upload run {run.alternative_name!r}"
    placement = target.placement(session.user, run.name, run.alternative_name)
    client_id = _client_id(run, placement)
    path = absolute_path(f"{placement['folder']}/{run.name}", session.user)
    if target.conflict_strategy in ("skip", "error"):
        there = runs.find(session, path)
        if there is not None and there.get("client_id") != client_id:
            if target.conflict_strategy == "error":
                raise ConflictError(f"{what}: {path} is there already", hint="conflict_strategy 'new' or 'replace'")
            node = nodes.node_of(there.get("node"), what)
            return Uploaded(node.path, node.id, False, Report())
    report = Report()
    associations = {side: [_sent(session, mark, target, report) for mark in run.associations[side]] for side in SIDES}
    record = run.to_record()
    metadata = {**record.pop("metadata"), "associations": associations, "remote": []}
    made = runs.create(
        session,
        {
            "client_id": client_id,
            "placement": placement,
            "state": "Running",
            "start_timestamp": run.start_timestamp,
            "labels": run.labels,
            "description": run.description,
            "metadata": _plain(metadata),
        },
        what,
    )
    node = nodes.node_of(made.get("node"), what)
    if not made.get("created") and target.conflict_strategy == "skip":
        there = runs.get(session, node.id, what)
        if there.get("client_id") != client_id:  # somebody was faster
            return Uploaded(node.path, node.id, False, report)
    for name, document in record.items():  # one by one: each may be as long as a request
        runs.change(session, node.id, {name: _plain(document)}, what)
    _send_metrics(session, run, node.id, bool(made.get("created")), what)
    _send_log(session, run, node.id, what)
    _send_edges(session, node.id, associations, what)
    runs.change(session, node.id, {"metadata": _plain(metadata), **_end(run)}, what)
    run.remember(entry("upload", session, node.path))
    return Uploaded(node.path, node.id, True, report)


def weigh_run(session: Session, run: Run) -> Report:
    """What an upload would send of the run's artifacts."""
    report = Report()
    for mark in (mark for side in SIDES for mark in run.associations[side]):
        if (local := _local(mark)) is not None and _known_path(session, local) is None:
            _count(report, weigh_artifact(session, load_local(local)))
    return report


def _client_id(run: Run, placement: Mapping[str, Any]) -> str:
    """Names this upload: the same for a call that continues an interrupted one, another once that was finished."""
    finished = sum(line.get("action") == "upload" for line in run.remote)
    text = "\0".join((run.alternative_name, run.start_timestamp, placement["folder"], str(finished)))
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def _local(mark: Mapping[str, str]) -> str | None:
    local = mark.get("local")
    if mark.get("type") == "Artifact" and local and os.path.isfile(os.path.join(local, ".artifact", "metadata.json")):
        return local
    return None


def _known_path(session: Session, local: str) -> str | None:
    """Where on the server an artifact's present content is, as far as its history tells and the server agrees."""
    artifact = load_local(local)
    with translated():
        digest = _engine.manifest_digest(local)
    for line in reversed(artifact.remote):
        if line.get("host") == session.url and line.get("digest") == digest:
            there = nodes.find(session, line.get("path", ""))
            return there.path if there is not None and there.kind == "Artifact" else None
    return None


def _sent(session: Session, mark: Mapping[str, str], target: Target, report: Report) -> dict[str, str]:
    """The mark as the server keeps it: with the node's path instead of a directory of this machine."""
    known = {key: value for key, value in mark.items() if key != "local"}
    local = _local(mark)
    if local is None:
        return known
    path = _known_path(session, local)
    if path is None:
        # The strategy is about the run's name; an artifact never takes the place of another one.
        sent = upload_artifact(session, load_local(local), Target(target.folder, target.make_folder, "new"))
        _count(report, sent.report)
        path = sent.path
    return {**known, "path": path}


def _count(report: Report, more: Report) -> None:
    for field in fields(Report):
        setattr(report, field.name, getattr(report, field.name) + getattr(more, field.name))


def _send_metrics(session: Session, run: Run, run_id: str, is_new: bool, what: str) -> None:
    folder = os.path.join(run.local, "metrics")
    stored = {} if is_new else runs.metric_counts(session, run_id, what)
    writer = uuid.uuid4().hex
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        if not name.endswith(".yaml"):
            continue
        kind = name.removesuffix(".yaml")
        points = read_metrics(os.path.join(folder, name)).points
        for sequence, batch in enumerate(batches(points, stored.get(kind, 0))):
            runs.put_metrics(session, run_id, kind, writer, sequence, batch, what)


def _send_log(session: Session, run: Run, run_id: str, what: str) -> None:
    try:
        file = open(os.path.join(run.local, "stdout.log"), "rb")  # noqa: SIM115 - closed below, if there is one
    except FileNotFoundError:
        return
    with file:
        offset = int(runs.get(session, run_id, what).get("log_bytes") or 0)
        file.seek(offset)
        while part := file.read(min(MAX_LOG_PART_BYTES, MAX_LOG_BYTES - offset)):
            runs.put_log(session, run_id, offset, part, what)
            offset += len(part)


def _send_edges(session: Session, run_id: str, associations: Mapping[str, Any], what: str) -> None:
    edges = {
        side: [
            {"path": mark["path"]} if "path" in mark else {"type": mark.get("type", ""), "name": mark.get("name", "")}
            for mark in associations[side]
        ]
        for side in SIDES
    }
    if any(edges.values()):
        runs.put_edges(session, run_id, edges, what)


def _end(run: Run) -> dict[str, Any]:
    return {"state": run.status} | ({"end_timestamp": run.end_timestamp} if run.end_timestamp else {})


def _plain(value: Any) -> Any:
    """The value with numbers that JSON lacks as text."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value

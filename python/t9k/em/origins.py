"""Where bytes come from: the artifacts that hold them, and the runs that marked these artifacts."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from t9k.em import _engine
from t9k.em.errors import EmError, translated
from t9k.em.runs.record import RunRecord

_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Mark:
    """A run, and whether it read the artifact (``input``) or made it (``output``)."""

    side: str
    run: RunRecord


@dataclass(frozen=True)
class Origin:
    """An artifact that holds some bytes.

    Attributes:
        artifact: Its directory.
        paths: Paths of the bytes in it, sorted.
        marks: The runs that marked it.
    """

    artifact: str
    paths: list[str]
    marks: Sequence[Mark]


def find_origins(
    digests: Collection[str], artifacts: Iterable[str], runs: Iterable[RunRecord]
) -> tuple[dict[str, list[Origin]], list[EmError]]:
    """Looks for objects in the manifests of local artifacts; reads no file of theirs.

    Args:
        digests: Of the objects, in hex.
        artifacts: Directories of the artifacts to look in.
        runs: Whose marks are told.

    Returns:
        The artifacts that hold each object, in the order given; none for an object that is nowhere. And why an artifact
        could not be looked into: its manifest is damaged, or it went meanwhile.
    """
    marks = marks_of(runs)
    origins: dict[str, list[Origin]] = {digest: [] for digest in digests}
    errors: list[EmError] = []
    for artifact in artifacts:
        try:
            held = _held(artifact, digests)
        except EmError as error:
            errors.append(error)
            continue
        name = os.path.basename(os.path.abspath(artifact))
        for digest, paths in held.items():
            origins[digest].append(Origin(artifact, paths, marks.get(name, ())))
    return origins, errors


def _held(artifact: str, digests: Collection[str]) -> Mapping[str, list[str]]:
    """Paths of those of some objects that an artifact has."""
    with translated():
        names, _ = _engine.manifest_objects(_engine.read_manifest(artifact))
        there = {names[at : at + _DIGEST_BYTES].hex() for at in range(0, len(names), _DIGEST_BYTES)}
        if there.isdisjoint(digests):
            return {}
        entries = _engine.read_entries(artifact)
    held: dict[str, list[str]] = defaultdict(list)
    for path, _, _, digest, *_ in entries:
        if digest is not None and digest in digests:
            held[digest].append(path)
    return held


def marks_of(runs: Iterable[RunRecord]) -> Mapping[str, list[Mark]]:
    """Marks of artifacts by the alternative names of these, which are the names of their directories."""
    marks: dict[str, list[Mark]] = defaultdict(list)
    for run in runs:
        for side in ("inputs", "outputs"):
            for mark in run.associations(side):
                if mark.get("type") == "Artifact":
                    marks[str(mark.get("name"))].append(Mark(side.removesuffix("s"), run))
    return marks

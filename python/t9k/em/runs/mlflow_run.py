"""A run as mlflow keeps it, whether in files or in a database."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

Scalar = tuple[str, str, int, float, float]
"""Type, name, step, time in seconds, value."""


@dataclass(frozen=True)
class MlflowRun:
    """One run.

    Attributes:
        status: FINISHED, FAILED, KILLED, RUNNING or SCHEDULED.
        started_s: Seconds since the epoch.
        ended_s: The same, None if it has not ended.
        experiment: Name of its experiment, '' if it is not known.
        scalars: All metrics, those of one type and step side by side; None for one that cannot be read.
        artifacts: Directory of its artifacts, which may not be there.
        source: Where it was found.
    """

    run_id: str
    name: str
    status: str
    started_s: float
    ended_s: float | None
    experiment: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    scalars: Iterator[Scalar | None]
    artifacts: str
    source: str


def seconds(milliseconds: object) -> float | None:
    """Returns a time of mlflow's, None if there is none."""
    return milliseconds / 1000 if isinstance(milliseconds, int) and abs(milliseconds) < 2**63 else None

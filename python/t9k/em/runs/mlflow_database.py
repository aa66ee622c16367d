"""Runs of mlflow's SQLite database, read with the standard library and never written."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from urllib.parse import quote, unquote

from t9k.em.errors import InvalidInputError
from t9k.em.runs.imported import split_tag
from t9k.em.runs.mlflow_run import MlflowRun, Scalar, seconds

_RUNS = """
    SELECT runs.run_uuid, runs.name, runs.status, runs.start_time, runs.end_time, runs.artifact_uri,
           experiments.experiment_id, experiments.name
    FROM runs JOIN experiments ON experiments.experiment_id = runs.experiment_id
    WHERE runs.lifecycle_stage <> 'deleted' ORDER BY runs.start_time, runs.run_uuid
"""
# Metrics of one type are those with the same beginning; those of one step are side by side then.
_METRICS = """
    SELECT key, step, timestamp, value, is_nan FROM metrics WHERE run_uuid = ?
    ORDER BY substr(key, 1, instr(key, '/')), timestamp, step, key
"""
_LARGEST = 1.7976931348623157e308
"""How mlflow keeps an infinity, which its databases may not hold."""


def database_runs(path: str) -> Iterator[MlflowRun]:
    """Yields the runs of a database; deleted ones are left out.

    Raises:
        InvalidInputError: It is not a database of mlflow's.
    """
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True)) as database:
            database.execute("PRAGMA trusted_schema = OFF")
            for run_id, name, status, start, end, uri, experiment_id, experiment in database.execute(_RUNS).fetchall():
                tags = _pairs(database, "tags", run_id)
                yield MlflowRun(
                    run_id=str(run_id),
                    name=str(name or tags.get("mlflow.runName") or run_id),
                    status=str(status),
                    started_s=seconds(start) or 0.0,
                    ended_s=seconds(end),
                    experiment=str(experiment),
                    params=_pairs(database, "params", run_id),
                    tags=tags,
                    scalars=_scalars(database, run_id),
                    artifacts=_artifacts(path, str(uri), str(experiment_id), str(run_id)),
                    source=path,
                )
    except sqlite3.Error as error:
        raise InvalidInputError(f"{path} cannot be read as a database of mlflow: {error}") from error


def _pairs(database: sqlite3.Connection, table: str, run_id: str) -> dict[str, str]:
    rows = database.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ? ORDER BY key", (run_id,))
    return {str(key): str(value) for key, value in rows}


def _scalars(database: sqlite3.Connection, run_id: str) -> Iterator[Scalar | None]:
    for key, step, milliseconds, value, is_nan in database.execute(_METRICS, (run_id,)):
        time_s = seconds(milliseconds)
        if not isinstance(key, str) or type(step) is not int or time_s is None or type(value) not in (int, float):
            yield None
            continue
        number = float("nan") if is_nan else value if abs(value) < _LARGEST else value * 10
        yield *split_tag(key), step, time_s, number


def _artifacts(path: str, uri: str, experiment_id: str, run_id: str) -> str:
    """The directory of a run's artifacts, only if it is below the database's own."""
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    named = os.path.realpath(unquote(uri.removeprefix("file://")))
    usual = os.path.join(folder, "mlruns", experiment_id, run_id, "artifacts")
    return named if named.startswith(folder + os.sep) and os.path.isdir(named) else usual

"""The benchmarks of runs run, so that they do not rot. No time is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHES = Path(__file__).parents[2] / "benches"


def _run(bench: str, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHES / bench), *arguments, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return {report["bench"]: report["rows"] for report in map(json.loads, done.stdout.splitlines())}


def test_import_brings_no_heavy_module() -> None:
    reports = _run("import_time.py", "--rounds", "1")
    assert {"bare", "json, argparse", "from t9k import em", "em.create_run"} <= set(reports["import"])
    assert all(found == [] for found in reports["imported"].values())


def test_making_a_run_is_measured_with_and_without_capture() -> None:
    rows = _run("create_run.py", "--rounds", "1")["create"]
    assert {"all", "without output", "bare"} == set(rows)
    assert all(row["first_ms"] > 0 for row in rows.values())


def test_log_call_is_measured_without_peers() -> None:
    assert set(_run("log_call.py", "--rounds", "1")["log"]) == {"em"}


def test_points_are_read_back_in_columns() -> None:
    row = _run("read_back.py", "--points", "50000", "--scalars", "2", "--rounds", "1")["read back"]
    assert row["above_import_mib"] < 60


def test_training_reports_the_share_of_logging() -> None:
    assert 0 < _run("training_share.py", "--steps", "20", "--rounds", "1")["training"]["percent_at_each_step"] < 100

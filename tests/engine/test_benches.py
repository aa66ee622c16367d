"""The benchmarks run, so that they do not rot. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

BENCHES = Path(__file__).parents[2] / "benches"


def test_add_benchmark_reports_every_contender() -> None:
    arguments = ["--size", "1000000", "--files", "20", "--rounds", "2", "--settle", "0", "--json"]
    command = [sys.executable, str(BENCHES / "add.py"), *arguments]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    reports = {report["bench"]: report for report in map(json.loads, result.stdout.splitlines())}
    assert set(reports) == {"1 file", "4 files", "small files"}
    assert {"cp -r", "new", "again", "new times", "hash alone"} <= set(reports["1 file"]["rows"])
    assert {"cp -rl", "new", "again"} <= set(reports["small files"]["rows"])

"""The benchmarks run, so that they do not rot. No time is asserted."""

import json
import subprocess
import sys
from pathlib import Path

BENCHES = Path(__file__).parents[2] / "benches"


def run(bench: str, *arguments: str) -> dict[str, dict[str, dict[str, object]]]:
    command = [sys.executable, str(BENCHES / bench), *arguments, "--json"]
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    return {report["bench"]: report for report in map(json.loads, result.stdout.splitlines())}


def test_add_reports_every_contender() -> None:
    reports = run("add.py", "--size", "1000000", "--files", "20", "--rounds", "2", "--settle", "0")
    assert set(reports) == {"1 file", "4 files", "small files"}
    assert {"cp -r", "new", "again", "new times", "hash alone"} <= set(reports["1 file"]["rows"])
    assert {"cp -rl", "new", "again"} <= set(reports["small files"]["rows"])


def test_hash_reports_the_command_and_the_engine() -> None:
    assert {"engine", "em hash"} <= set(run("hash.py", "--size", "2000000", "--rounds", "2")["hash"]["rows"])


def test_memory_of_a_large_file_stays_far_below_its_size() -> None:
    figures = run("memory.py", "--size", "200000000", "--sparse", "1000000000", "--files", "100")
    for mib in figures["memory"]["mib_above_import"].values():
        assert isinstance(mib, float)
        assert mib < 32


def test_packs_reports_both_sides() -> None:
    rows = run("packs.py", "--size", "40000000", "--rounds", "1")["packs"]["rows"]
    assert {"cp", "build", "verify", "BLAKE3 of the packs", "assemble", "materialize"} <= set(rows)


def test_peers_reports_what_is_installed() -> None:
    small = ["--size", "1000000", "--files", "20", "--rounds", "1", "--settle", "0"]
    reports = run("peers.py", "--peers", sys.executable, *small)
    assert set(reports) == {"peers, checkpoint", "peers, small files"}
    for report in reports.values():
        assert {"cp -r: new", "em: new", "em: again"} <= set(report["rows"])

"""Time and memory of reading a million logged points back."""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

from alternate import workplace


def read(path: str) -> dict[str, float]:
    """Returns what one fresh process needs for it."""
    from t9k import em

    run = em.load_run(path)
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, began_cpu = time.perf_counter(), time.process_time()
    points = run.metrics["train"]
    count, last = len(points), points[-1]
    read_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    assert last["at"]["step"] == count - 1
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "read_s": read_s,
        "cpu_s": cpu_s,
        "peak_mib": peak_kib / 1024,
        "above_import_mib": (peak_kib - before_kib) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--scalars", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(options.read)))
        return
    with workplace():
        from t9k import em

        run = em.create_run(name="bench")
        for step in range(options.points):
            run.log("train", {f"metric_{index}": 1 / (step + index + 1) for index in range(options.scalars)}, step=step)
        run.finish()
        command = [sys.executable, __file__, "--read", run.local]
        found = [
            json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for _ in range(options.rounds)
        ]
    row = {key: round(statistics.median(one[key] for one in found), 3) for key in found[0]}
    row["min_read_s"] = round(min(one["read_s"] for one in found), 3)
    if options.json:
        print(json.dumps({"bench": "read back", "points": options.points, "scalars": options.scalars, "rows": row}))
    else:
        print(f"{options.points:,} points of {options.scalars} scalars: {row}")


if __name__ == "__main__":
    main()

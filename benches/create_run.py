"""Time until the first `create_run` of a fresh interpreter returns, with and without the capture of output.

`import_ms` is what the name `em.create_run` brings when it is first used,
behind `from t9k import em`; `first_ms` is the call, which imports yaml.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

from alternate import compile_package, workplace

CODE = """
import json, os, time
from t9k import em
named = time.perf_counter()
em.create_run
began, began_cpu = time.perf_counter(), time.process_time()
run = em.create_run(name="bench", hparams={"lr": 0.1, "epochs": 3})
ended, ended_cpu = time.perf_counter(), time.process_time()
em.create_run(name="again", hparams={"lr": 0.1, "epochs": 3})
again = time.perf_counter()
values = {"import_ms": began - named, "first_ms": ended - began, "first_cpu_ms": ended_cpu - began_cpu}
values["second_ms"] = again - ended
os.write(int(os.environ["EM_BENCH_FD"]), json.dumps(values).encode())
"""
SETTINGS = {
    "all": {"EM_CAPTURE": "1"},
    "without output": {"EM_CAPTURE": "0"},
    "bare": {"EM_CAPTURE": "0", "EM_SYSTEM_METRICS": "0"},
}
"""What the environment turns off."""


def measure(settings: dict[str, str]) -> dict[str, float]:
    """Returns milliseconds of the first and of the second run."""
    reader, writer = os.pipe()
    environ = os.environ | settings | {"EM_BENCH_FD": str(writer)}
    try:
        subprocess.run([sys.executable, "-c", CODE], env=environ, pass_fds=[writer], check=True, capture_output=True)
        found: dict[str, float] = json.loads(os.read(reader, 4096))
    finally:
        os.close(reader)
        os.close(writer)
    return {name: seconds * 1e3 for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    compile_package()
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in SETTINGS}
    with workplace():
        for _ in range(options.rounds):
            for name, settings in SETTINGS.items():
                rounds[name].append(measure(settings))
    rows = {
        name: {
            **{key: round(statistics.median(one[key] for one in found), 2) for key in found[0]},
            "first_min_ms": round(min(one["first_ms"] for one in found), 2),
        }
        for name, found in rounds.items()
    }
    if options.json:
        print(json.dumps({"bench": "create", "rounds": options.rounds, "rows": rows}))
        return
    print("create_run until it returns, medians")
    for name, row in rows.items():
        first = f"first {row['first_ms']:6.1f} ms (min {row['first_min_ms']:5.1f}, CPU {row['first_cpu_ms']:5.1f})"
        print(f"  {name:15} import {row['import_ms']:5.1f} ms   {first}   second {row['second_ms']:6.1f} ms")


if __name__ == "__main__":
    main()

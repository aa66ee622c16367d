"""Time of one log call of five scalars, and of making a run, beside other trackers.

Each contender runs in a process of its own, all in turn, in several rounds;
peers run with the interpreter that --peers names, where they are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

CALLS = 10_000
METRICS = {"loss": 0.123456789, "accuracy": 0.98765, "lr": 1e-4, "grad_norm": 12.5, "tokens": 123456}
Log = Callable[[int], object]
Tracker = Iterator[tuple[Log, Callable[[], object]] | None]
"""Yields once when the package is imported, then the run's log call and its end."""


def em_run() -> Tracker:
    from t9k import em

    assert em.create_run  # imports what it needs
    yield None
    run = em.create_run(name="bench")
    yield lambda step: run.log("train", METRICS, step=step), run.finish


def wandb_offline() -> Tracker:
    import wandb

    yield None
    run = wandb.init(mode="offline", dir=".", project="bench", settings=wandb.Settings(silent=True))
    yield lambda step: run.log(METRICS, step=step), run.finish


def mlflow_files() -> Tracker:
    import mlflow

    yield None
    mlflow.set_tracking_uri(Path("mlruns").absolute().as_uri())
    mlflow.start_run()
    yield lambda step: mlflow.log_metrics(METRICS, step=step), mlflow.end_run


def trackio_local() -> Tracker:
    import trackio

    yield None
    run = trackio.init(project="bench", embed=False)
    yield lambda step: run.log(METRICS, step=step), run.finish


def tensorboard_writer() -> Tracker:
    from tensorboardX import SummaryWriter

    yield None
    writer = SummaryWriter("tensorboard")

    def log(step: int) -> None:
        for name, value in METRICS.items():
            writer.add_scalar(name, value, step)

    yield log, writer.close


CONTENDERS = {
    "em": em_run,
    "wandb offline": wandb_offline,
    "mlflow file store": mlflow_files,
    "trackio": trackio_local,
    "tensorboardX": tensorboard_writer,
}
CALLS_OF = {"mlflow file store": 300, "trackio": 3000}
"""Fewer where a call takes milliseconds."""


def measure(name: str) -> dict[str, float]:
    """Returns times of calls in microseconds, of the making in milliseconds.

    ``cpu_us`` is what the process needed for each call until all were
    finished: some trackers only put a call into a queue for a thread.
    """
    tracker = CONTENDERS[name]()
    next(tracker)
    began = time.perf_counter()
    made = next(tracker)
    assert made is not None
    log, finish = made
    made_s = time.perf_counter() - began
    log(0)
    time.sleep(1.0)  # what runs once beside the script has run
    clock, times, began_cpu = time.perf_counter_ns, [], time.process_time()
    for step in range(1, CALLS_OF.get(name, CALLS) + 1):
        start = clock()
        log(step)
        times.append(clock() - start)
    finish()
    cpu_s = time.process_time() - began_cpu
    times.sort()
    return {
        "made_ms": made_s * 1e3,
        "median_us": times[len(times) // 2] / 1e3,
        "p99_us": times[len(times) * 99 // 100] / 1e3,
        "cpu_us": cpu_s / len(times) * 1e6,
    }


def measured(name: str, python: str) -> dict[str, float] | None:
    environ = os.environ | {
        "WANDB_SILENT": "true",
        "MLFLOW_ENABLE_ASYNC_LOGGING": "false",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": "trackio",
        "HF_HUB_OFFLINE": "1",
    }
    with tempfile.TemporaryDirectory(prefix="em-bench-") as folder:
        command = [python, os.path.abspath(__file__), "--worker", name]
        done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300)
    if done.returncode:
        print(f"  {name}: left out: {(done.stderr.strip().splitlines() or ['?'])[-1]}", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default="", help="interpreter that has the peers; without it there are none")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure(options.worker)), flush=True)
        return
    pythons = {"em": sys.executable} | {
        name: os.path.abspath(options.peers) for name in CONTENDERS if name != "em" and options.peers
    }
    rounds: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.rounds):
        for name, python in list(pythons.items()):
            if (found := measured(name, python)) is None:
                del pythons[name]
            else:
                rounds.setdefault(name, []).append(found)
    rows: dict[str, Any] = {
        name: {key: round(statistics.median(found[key] for found in all_found), 2) for key in all_found[0]}
        for name, all_found in rounds.items()
    }
    if options.json:
        print(json.dumps({"bench": "log", "rounds": options.rounds, "rows": rows}))
        return
    print("log call of 5 scalars: medians of rounds")
    for name, row in rows.items():
        ratio = row["median_us"] / rows["em"]["median_us"]
        print(
            f"  {name:18} median {row['median_us']:9.2f} us {ratio:7.1f}x   p99 {row['p99_us']:9.2f} us"
            f"   CPU {row['cpu_us']:9.2f} us   made in {row['made_ms']:8.1f} ms"
        )


if __name__ == "__main__":
    main()

"""Time that `auto_upload` takes from a training script: the server slow, or gone.

`python benches/auto_upload.py [--steps 10000] [--step-ms 3] [--rounds 3]`. A loop of steps, each of which computes for
a while and logs two metrics: to a run that stays here, to one whose server answers everything 2 s late (a proxy that
delays), and to one whose server dies in the first tenth of the loop. Steps are timed without the wait between them
and the log call; "taken" is what all log calls of a run took above those of the run that stays here, in percent of the
loop, and the longest of them. What `create_run` takes is told apart: it logs in.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from served import ROOT, Rows, go_home, parser, run_server, workplace
from t9k import em

sys.path.insert(0, str(ROOT / "tests" / "transfer"))
from proxy import Faults, proxied

LATENCY_S = 2.0
TARGETS = {f"server {name}: taken, % of the loop": 0.5 for name in ("slow", "gone")}


def loop(steps: int, step_s: float, kind: str, at_step: Callable[[int], None]) -> tuple[float, float, float, float]:
    """Seconds of all log calls, of the longest one, of the loop, and of making the run."""
    clock, work = time.perf_counter, np.ones((96, 96), np.float32)
    began = clock()
    run = em.create_run(name="bench", auto_upload=kind != "none")
    made_s = clock() - began
    logged = []
    began = clock()
    for step in range(steps):
        at_step(step)
        end = clock() + step_s
        while clock() < end:
            work @ work
        start = clock()
        run.log("train", {"loss": 1 / (step + 1), "accuracy": step / steps}, step=step)
        logged.append(clock() - start)
    loop_s = clock() - began
    os.environ["EM_SYNC_FINISH_S"] = "0"
    run.finish()
    return sum(logged), max(logged), loop_s, made_s


def main() -> None:
    """Prints the table."""
    options = parser(__doc__)
    options.add_argument("--steps", type=int, default=10_000)
    options.add_argument("--step-ms", type=float, default=3.0)
    arguments = options.parse_args()
    rows = Rows("auto_upload", TARGETS)
    with workplace(arguments):
        os.environ["OPENBLAS_NUM_THREADS"] = "1"
        figures: dict[str, list[float]] = {}
        for turn in range(arguments.rounds):
            for kind in ("none", "well", "slow", "gone"):
                go_home(f"home-{turn}-{kind}")
                with run_server(Path(f"data-{turn}-{kind}").absolute()) as server, proxied(server.url) as proxy:
                    em.login(proxy.url, server.api_key)
                    if kind == "slow":
                        proxy.faults = Faults(delay=1.0, delay_s=LATENCY_S, least_delay_s=LATENCY_S)

                    def at_step(step: int, kind: str = kind, server=server) -> None:  # type: ignore[no-untyped-def]
                        if kind == "gone" and step == arguments.steps // 10:
                            server.process.kill()

                    taken, longest, loop_s, made_s = loop(arguments.steps, arguments.step_ms / 1000, kind, at_step)
                    em.logout()
                figures.setdefault(kind, []).append(taken)
                own = statistics.median(figures["none"])
                name = "no server" if kind == "none" else f"server {kind}"
                rows.note(f"{name}: log calls, % of the loop", 100 * taken / loop_s)
                if kind != "none":
                    rows.note(f"{name}: taken, % of the loop", 100 * max(0.0, taken - own) / loop_s)
                rows.note(f"{name}: longest log call, ms", 1000 * longest)
                rows.note(f"{name}: create_run, ms", 1000 * made_s)
    rows.show(arguments.json)


if __name__ == "__main__":
    main()

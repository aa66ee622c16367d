"""Two processes train; only rank 0 leaves a run. A launcher such as torchrun would set RANK."""

import os
import subprocess
import sys

from t9k.em.integrations.rank import create_run, global_rank


def train() -> None:
    run = create_run(name="data_parallel", hparams={"world_size": int(os.environ["WORLD_SIZE"])})
    for step in range(1, 4):
        run.log("train", {"loss": 1 / step}, step=step)
    run.finish()
    print(f"rank {global_rank()}: {run.local or 'no run'}")


def main() -> None:
    if "RANK" in os.environ:
        train()
        return
    processes = [
        subprocess.Popen([sys.executable, __file__], env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"})
        for rank in range(2)
    ]
    sys.exit(max(process.wait() for process in processes))


if __name__ == "__main__":
    main()

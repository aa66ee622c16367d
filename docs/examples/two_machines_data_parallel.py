"""As two_machines.py with several processes, of which rank 0 alone speaks to the server.

    python two_machines_data_parallel.py --ranks 2 --steps 20
    python two_machines_data_parallel.py --ranks 2 --steps 40 --resume   # elsewhere

Each rank computes the gradient of its part of a batch, and all take the step with the mean of these. The launcher below
sets what torchrun sets, which may start the script too. With PyTorch, torch.distributed takes the place of `Ranks`.
Data and checkpoints are those of two_machines.py, which lies beside.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from multiprocessing.connection import Client, Listener

import numpy as np
from t9k import em
from t9k.em.integrations.rank import is_rank_zero
from tensorboard.summary import Writer
from two_machines import BATCH, FEATURES, get_dataset, load_checkpoint, save_checkpoint


class Ranks:
    """All processes of one training; rank 0 is in the middle."""

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        # torchrun itself listens at MASTER_PORT.
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1
        if self.rank == 0:
            with Listener(address, backlog=self.size) as listener:
                self.others = [listener.accept() for _ in range(self.size - 1)]
        else:
            self.others = [self._middle(address)]

    def _middle(self, address: tuple[str, int]) -> Client:
        for _ in range(600):
            try:
                return Client(address)
            except ConnectionRefusedError:  # rank 0 is not there yet
                time.sleep(0.1)
        raise SystemExit(f"rank {self.rank} finds no rank 0 at {address}")

    def broadcast(self, value: object) -> object:
        """What rank 0 says."""
        if self.rank:
            return self.others[0].recv()
        for other in self.others:
            other.send(value)
        return value

    def mean(self, array: np.ndarray) -> np.ndarray:
        """Of every rank's array; the same bits on all."""
        if self.rank:
            self.others[0].send(array)
            return self.others[0].recv()
        return self.broadcast(sum((other.recv() for other in self.others), array) / np.float32(self.size))


class Record:
    """What rank 0 does besides training."""

    def __init__(self, folder: str, resume: bool) -> None:
        em.login()
        self.state = {name: np.zeros(FEATURES, np.float32) for name in ("weights", "momentum")}
        self.first = 0
        if resume:
            self.run = em.load_run(f"{folder}/data_parallel", auto_upload=True)
            self.state, self.first = load_checkpoint(self.run)
        else:
            self.run = em.create_run(
                name="data_parallel", hparams={"lr": 1e-4}, auto_upload=True, folder=folder, make_folder=True
            )
        self.run.hparams["world_size"] = int(os.environ["WORLD_SIZE"])
        self.dataset = get_dataset(folder)
        self.run.mark_input(self.dataset)
        self.writer = Writer("logs")

    def log(self, loss: float, step: int) -> None:
        """Of all ranks."""
        self.run.log("train", {"loss": loss}, step=step)
        self.writer.add_scalar("loss", loss, step)

    def finish(self) -> None:
        """Sends the rest."""
        self.writer.close()
        logs = em.create_artifact(name="tensorboard_logs")
        logs.add_dir("logs")
        self.run.mark_output(logs)
        self.run.finish()
        print(f"{self.run.status}: {self.run.remote[-1]['path']}")


def train(arguments: argparse.Namespace) -> None:
    ranks = Ranks()
    record = Record(arguments.folder, arguments.resume) if is_rank_zero() else None
    start = (record.dataset.local, record.state, record.first, record.run.hparams.lr) if record else None
    path, state, first, lr = ranks.broadcast(start)
    data = np.load(f"{path}/dataset.npz")  # on a file system that all ranks see
    for step in range(first + 1, arguments.steps + 1):
        batch = np.random.default_rng(step).integers(0, len(data["x"]), BATCH)[ranks.rank :: ranks.size]
        error = data["x"][batch] @ state["weights"] - data["y"][batch]
        gradient = ranks.mean((2 / len(batch)) * (error @ data["x"][batch]))
        state["momentum"] = np.float32(0.9) * state["momentum"] + gradient
        state["weights"] = state["weights"] - np.float32(lr) * state["momentum"]
        loss = float(ranks.mean((error**2).mean()))
        if record:
            record.log(loss, step)
            if step % 10 == 0:
                save_checkpoint(record.run, state, step)
    if record:
        record.finish()


def launch(ranks: int) -> int:
    """Starts a process for each rank; answers the exit code."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port - 1)}
    processes = [
        subprocess.Popen([sys.executable, *sys.argv], env={**os.environ, **common, "RANK": str(rank)})
        for rank in range(ranks)
    ]
    return max(process.wait() for process in processes)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=2, help="processes to start, where no launcher has")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", default="two_machines", help="on the server")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        train(arguments)
    else:
        sys.exit(launch(arguments.ranks))


if __name__ == "__main__":
    main()

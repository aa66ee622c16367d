"""Trains on one machine, and goes on from the last checkpoint on another one.

    python two_machines.py --steps 20            # machine one
    python two_machines.py --steps 40 --resume   # machine two, in an empty directory

Both need a server: `em login`. The dataset, the checkpoints and the TensorBoard logs are artifacts of the run.
"""

import argparse

import numpy as np
from safetensors.numpy import load_file, save_file
from t9k import em
from tensorboard.summary import Writer

BATCH, FEATURES = 32, 1000


def get_dataset(folder: str) -> em.Artifact:
    """The one on the server; the first call makes it."""
    try:
        return em.load_artifact(f"{folder}/dataset")
    except RuntimeError:  # there is none yet
        random = np.random.default_rng(0)
        x = random.standard_normal((256, FEATURES), dtype=np.float32)
        np.savez("dataset.npz", x=x, y=x @ random.standard_normal(FEATURES, dtype=np.float32))
        dataset = em.create_artifact(name="dataset", description="random points and a linear function of them")
        dataset.add_file("dataset.npz")
        dataset.upload(folder, make_folder=True)
        return dataset


def save_checkpoint(run: em.Run, state: dict[str, np.ndarray], step: int) -> None:
    """Keeps weights and momentum; auto_upload sends them while training goes on."""
    save_file(state, "state.safetensors", metadata={"step": str(step)})
    checkpoint = em.create_artifact(name=f"checkpoint-{step}", labels=["checkpoint"])
    checkpoint.add_file("state.safetensors")
    run.mark_output(checkpoint)


def load_checkpoint(run: em.Run) -> tuple[dict[str, np.ndarray], int]:
    """The last one that the run has marked."""
    marked = [mark for mark in run.associations["outputs"] if mark["name"].startswith("checkpoint-")]
    checkpoint = em.load_artifact(marked[-1].get("local") or marked[-1]["path"])
    return load_file(f"{checkpoint.local}/state.safetensors"), int(checkpoint.name.removeprefix("checkpoint-"))


def train_step(state: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, lr: float) -> float:
    """One step of gradient descent with momentum; answers the loss before it."""
    error = x @ state["weights"] - y
    state["momentum"] = np.float32(0.9) * state["momentum"] + (2 / len(x)) * (error @ x)
    state["weights"] = state["weights"] - np.float32(lr) * state["momentum"]
    return float((error**2).mean())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--folder", default="two_machines", help="on the server")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()

    em.login()
    if arguments.resume:
        run = em.load_run(f"{arguments.folder}/linear", auto_upload=True)
        state, first = load_checkpoint(run)
    else:
        run = em.create_run(
            name="linear", hparams={"lr": 1e-4}, auto_upload=True, folder=arguments.folder, make_folder=True
        )
        state, first = {name: np.zeros(FEATURES, np.float32) for name in ("weights", "momentum")}, 0
    dataset = get_dataset(arguments.folder)
    run.mark_input(dataset)
    data = np.load(f"{dataset.local}/dataset.npz")

    writer = Writer("logs")  # as torch.utils.tensorboard.SummaryWriter
    for step in range(first + 1, arguments.steps + 1):
        batch = np.random.default_rng(step).integers(0, len(data["x"]), BATCH)
        loss = train_step(state, data["x"][batch], data["y"][batch], run.hparams.lr)
        run.log("train", {"loss": loss}, step=step)
        writer.add_scalar("loss", loss, step)
        if step % 10 == 0:
            save_checkpoint(run, state, step)
    writer.close()

    logs = em.create_artifact(name="tensorboard_logs")
    logs.add_dir("logs")
    run.mark_output(logs)
    run.finish()
    print(f"steps {first + 1} to {arguments.steps}, loss {loss:.4g}: {run.remote[-1]['path']}")


if __name__ == "__main__":
    main()

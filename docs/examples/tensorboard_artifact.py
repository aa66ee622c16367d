"""Keeps a folder of TensorBoard logs as an output artifact of a run."""

from t9k import em
from tensorboard.summary import Writer


def main() -> None:
    run = em.create_run(name="tensorboard")
    # As torch.utils.tensorboard.SummaryWriter or keras.callbacks.TensorBoard would.
    writer = Writer("logs")
    for step in range(1, 11):
        writer.add_scalar("loss", 1 / step, step)
        run.log("train", {"loss": 1 / step}, step=step)
    writer.close()

    artifact = em.create_artifact(name="tensorboard_logs")
    artifact.add_dir(dir_path="logs/")
    run.mark_output(artifact)
    run.finish()
    print(run.local)


if __name__ == "__main__":
    main()

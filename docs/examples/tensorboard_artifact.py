"""Keeps a folder of TensorBoard logs as an output artifact of a run."""

from pathlib import Path

from t9k import em


def main() -> None:
    run = em.create_run(name="tensorboard")
    log_dir = Path("logs")
    log_dir.mkdir(exist_ok=True)
    # Where torch.utils.tensorboard.SummaryWriter or keras.callbacks.TensorBoard writes.
    (log_dir / "events.out.tfevents.1").write_bytes(b"events")

    artifact = em.create_artifact(name="tensorboard_logs")
    artifact.add_dir(str(log_dir))
    run.mark_output(artifact)
    run.finish()
    print(run.local)


if __name__ == "__main__":
    main()

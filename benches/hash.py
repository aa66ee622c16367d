"""`em hash` of one large file against the `b3sum` binary (`cargo install b3sum --root target/peers`)."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from alternate import ROUNDS, alternate, compile_package, report, workplace


def run(arguments: argparse.Namespace) -> None:
    peers = Path(__file__).parents[1] / "target/peers/bin"
    b3sum = shutil.which("b3sum", path=f"{peers}{os.pathsep}{os.environ['PATH']}")
    compile_package()
    with workplace():
        with open("file", "wb") as file:
            for _ in range(max(1, arguments.size >> 20)):
                file.write(os.urandom(1 << 20))

        def call(*command: str) -> None:
            subprocess.run([*command, "file"], check=True, stdout=subprocess.DEVNULL)

        from t9k.em import _engine

        contenders = {
            "engine": lambda turn: _engine.hash_file("file"),
            "em hash": lambda turn: call(str(Path(sys.executable).with_name("em")), "hash"),
        }
        if b3sum:
            contenders["b3sum"] = lambda turn: call(b3sum)
        else:
            print("b3sum is missing: cargo install b3sum --root target/peers", file=sys.stderr)
        report("hash", alternate(contenders, arguments.rounds), "b3sum" if b3sum else "em hash", arguments.json)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=2_100_000_000, help="bytes of the file")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true")
    run(parser.parse_args())

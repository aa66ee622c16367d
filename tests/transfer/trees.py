"""Directories to upload, and how to compare them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from t9k import em


def make_tree(root: Path, seed: int = 0, large_bytes: int = 3 << 20, small: int = 20) -> Path:
    """Small files in directories, an empty file and directory, an executable one, and a large one that is random."""
    rng = random.Random(seed)
    for index in range(small):
        path = root / f"d{index % 3}" / f"{index}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(1, 20_000)))
    (root / "empty").write_bytes(b"")
    (root / "nothing").mkdir()
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "large.bin").write_bytes(np.random.default_rng(seed).bytes(large_bytes))
    return root


def contents(root: Path | str) -> dict[str, tuple[bytes, bool] | None]:
    """Every file's bytes and executable bit by its path, None for an empty directory; `.artifact` is left out."""
    found: dict[str, tuple[bytes, bool] | None] = {}
    base = Path(root)
    for path in sorted(base.rglob("*")):
        name = path.relative_to(base).as_posix()
        if name.split("/")[0] == ".artifact":
            continue
        if path.is_file():
            found[name] = (path.read_bytes(), bool(path.stat().st_mode & 0o100))
        elif not any(path.iterdir()):
            found[name] = None
    return found


def make_artifact(tree: Path, name: str = "things") -> em.Artifact:
    """An artifact of everything in a directory."""
    artifact = em.create_artifact(name, labels=["a label"], description="what it is")
    for path in sorted(tree.iterdir()):
        (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path))
    return artifact


def artifact_of(name: str, *files: bytes) -> em.Artifact:
    """An artifact of files with these contents, in the working directory."""
    made = em.create_artifact(name)
    for number, content in enumerate(files):
        Path(f"{name}-{number}").write_bytes(content)
        made.add_file(f"{name}-{number}")
    return made

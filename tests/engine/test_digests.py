"""An object's digest is what `b3sum` prints, whatever its size: against an independent build of BLAKE3."""

import os
import random
import shutil
import subprocess
from pathlib import Path

import blake3
import pytest
from t9k import em

SEED = int(os.environ.get("EM_TEST_SEED", "1"))
SIZES = int(os.environ.get("EM_DIGEST_SIZES", "520"))
BLOCK = 1 << 20


def sizes() -> list[int]:
    """Those around each power of two, and random ones, of which every 26th has several blocks."""
    around = {2**power + step for power in range(10, 24) for step in (-1, 0, 1)} | {0, 1}
    numbers = random.Random(SEED)
    found = set(around)
    while len(found) < len(around) + SIZES:
        several = len(found) % 26 == 0
        found.add(numbers.randint(BLOCK, 5 * BLOCK) if several else int(2 ** numbers.uniform(0, 20)))
    return sorted(found)


def test_digest_of_what_is_added_is_that_of_blake3_for_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EM_THREADS", "3")
    noise = random.Random(SEED).randbytes(max(sizes()))
    expected = {}
    Path("source").mkdir()
    for size in sizes():
        # The end: files of different sizes do not begin alike.
        content = noise[len(noise) - size :]
        Path("source", str(size)).write_bytes(content)
        expected[size] = blake3.blake3(content).hexdigest()
    artifact = em.create_artifact("a")
    artifact.add_dir("source")
    found = {int(Path(entry["path"]).name): entry["digest"] for entry in artifact.objects}
    wrong = {size: name for size, name in expected.items() if found.get(size) != name}
    assert not wrong, f"with EM_TEST_SEED={SEED}"
    assert len(found) == len(expected) > 500
    if b3sum := shutil.which("b3sum"):
        lines = subprocess.run(
            [b3sum, *map(str, found)], cwd="source", check=True, capture_output=True, text=True
        ).stdout
        assert {int(line.split()[1]): line.split()[0] for line in lines.splitlines()} == found

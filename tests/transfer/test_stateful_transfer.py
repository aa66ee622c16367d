"""Users, machines, the server and its garbage collector in any order: bytes are right, and forbidden stays forbidden.

A walk of `EM_STATEFUL_STEPS` steps from `EM_STATEFUL_SEED`, on both databases. See `walk`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import server_steps
import transfer_steps
import tree_steps
from walk import Walk

STEPS = int(os.environ.get("EM_STATEFUL_STEPS", "1000"))
SEED = int(os.environ.get("EM_STATEFUL_SEED", "1"))

WEIGHTS: dict[Callable[[Walk], None], float] = {
    transfer_steps.make: 14,
    transfer_steps.upload: 14,
    transfer_steps.upload_version: 5,
    transfer_steps.load: 12,
    transfer_steps.killed_upload: 1,
    transfer_steps.together: 1.5,
    transfer_steps.forget: 3,
    transfer_steps.collect_local: 2,
    transfer_steps.look_local: 1,
    tree_steps.make_folder: 3,
    tree_steps.make_shortcut: 2,
    tree_steps.change: 6,
    tree_steps.copy: 3,
    tree_steps.delete: 4,
    tree_steps.restore: 2,
    tree_steps.purge: 3,
    tree_steps.share: 5,
    tree_steps.change_group: 0.5,
    tree_steps.change_domain: 0.5,
    tree_steps.change_versions: 6,
    tree_steps.look: 8,
    tree_steps.look_everywhere: 0.15,
    server_steps.pass_time: 1,
    server_steps.collect_garbage: 2,
    server_steps.look_behind: 0.2,
    server_steps.restart: 0.1,
}
"""How often each step is made."""


def test_walk_is_as_the_world_says(tmp_path: Path, database_url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EM_STORE_DIR", "EM_ARTIFACT_PARENT_DIR", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("EM_QUIET", "1")
    walk = Walk(tmp_path, database_url, SEED)
    began = time.monotonic()
    try:
        walk.go(WEIGHTS, STEPS)
        tree_steps.look_everywhere(walk)
        transfer_steps.load_all(walk)
        server_steps.look_behind(walk)
        server_steps.end(walk)
    except BaseException:
        print(f"seed {SEED}, step {walk.number}; the last steps were\n" + "\n".join(walk.log))
        raise
    finally:
        walk.close()
    assert walk.done["packs rewritten"] or STEPS < 1000
    print(f"{STEPS} steps in {time.monotonic() - began:.0f} s from seed {SEED}: {dict(walk.done)}")

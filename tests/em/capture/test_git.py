"""Git state of the script's repository."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from t9k.em.capture import git as capture_git
from t9k.em.capture.git import read_git


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "init.defaultBranch=trunk"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    _git(tmp_path, "init")
    (tmp_path / "train.py").write_text("lr = 1\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_clean_repository_gives_commit_branch_and_remote_without_credentials(repository: Path) -> None:
    _git(repository, "remote", "add", "origin", "https://user:s3cret@example.com/a/b.git")
    found = read_git(str(repository))
    assert len(found["commit"]) == 40
    assert (found["branch"], found["dirty"]) == ("trunk", False)
    assert found["remote"] == "https://example.com/a/b.git"
    assert "diff" not in found


def test_changed_file_is_dirty_with_its_diff_and_no_secrets(repository: Path) -> None:
    (repository / "train.py").write_text('lr = 2\napi_key = "s3cret-value"\n')
    found = read_git(str(repository))
    assert found["dirty"]
    assert "+lr = 2" in found["diff"]
    assert "s3cret" not in found["diff"]


def test_large_diff_is_cut(repository: Path) -> None:
    (repository / "train.py").write_text("x = 1\n" * 100_000)
    found = read_git(str(repository))
    assert found["diff"].endswith(f"[cut at {capture_git.MAX_DIFF_BYTES} bytes]")
    assert len(found["diff"]) < capture_git.MAX_DIFF_BYTES + 100


def test_repository_without_commits_is_no_error(tmp_path: Path) -> None:
    _git(tmp_path, "init")
    assert read_git(str(tmp_path))["commit"] == ""


def test_outside_a_repository_or_without_git_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_git(str(tmp_path)) == {}
    monkeypatch.setenv("PATH", "")
    assert read_git(str(tmp_path)) == {}


def test_programs_named_by_the_repository_are_not_run(repository: Path) -> None:
    marker = repository / "ran"
    for key in ("core.fsmonitor", "diff.external"):
        _git(repository, "config", key, f"touch {marker}")
    (repository / "train.py").write_text("lr = 3\n")
    assert read_git(str(repository))["dirty"]
    assert not marker.exists()


def test_git_that_does_not_answer_is_given_up(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = repository / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\necho half an answer\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(capture_git, "TIMEOUT_S", 0.3)
    assert read_git(str(repository)) == {}


def test_script_that_ends_at_once_has_its_commit(repository: Path) -> None:
    script = repository / "train.py"
    script.write_text("from t9k import em\nem.create_run()\n")
    environ = os.environ | {"EM_RUN_PARENT_DIR": str(repository / "runs"), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-W", "error", str(script)], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    (run,) = (repository / "runs").iterdir()
    assert len(yaml.safe_load((run / "git.yaml").read_text())["commit"]) == 40

"""Where the artifacts are that a command line names."""

from __future__ import annotations

import os

from t9k.em.artifact import METADATA, artifact_parent_dir


def artifact_dir(artifact: str) -> str:
    """Returns a directory as given, or that of an alternative name in the parent directory."""
    below = os.path.join(artifact_parent_dir(), artifact)
    return below if not os.path.isdir(artifact) and os.path.isdir(below) else artifact


def artifact_dirs() -> list[str]:
    """Returns the directories of all artifacts in the parent directory, sorted."""
    parent = artifact_parent_dir()
    found = (os.path.join(parent, name) for name in (sorted(os.listdir(parent)) if os.path.isdir(parent) else []))
    return [path for path in found if os.path.exists(os.path.join(path, METADATA))]

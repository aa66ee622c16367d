"""The Rust engine. See `rust/em-core` for how it works."""

from collections.abc import Callable
from typing import Any

_Progress = Callable[[int, int, int, int], object] | None

class EngineError(Exception):
    """A failure of the engine; `kind` says which."""

    kind: str
    message: str
    hint: str | None
    errno: int | None

def create_artifact(artifact_dir: str) -> None:
    """Make an artifact's directory with an empty manifest."""

def read_entries(artifact_dir: str) -> list[tuple[str, str, int | None, str | None, bool, str | None]]:
    """Read the entries of an artifact's manifest, sorted by path."""

def manifest_digest(artifact_dir: str) -> str:
    """Digest of an artifact's manifest: its version identity."""

def recover(store: str, artifact_dir: str) -> None:
    """Undo what an interrupted add left in an artifact's directory."""

def add_dir(store: str, artifact_dir: str, source: str, obj_path: str, progress: _Progress = None) -> dict[str, int]:
    """Add all files below a directory."""

def add_file(store: str, artifact_dir: str, source: str, obj_path: str, progress: _Progress = None) -> dict[str, int]:
    """Add one file."""

def add_reference(artifact_dir: str, obj_path: str, uri: str) -> dict[str, int]:
    """Record a URI as an entry; nothing is fetched."""

def verify(
    store: str, artifact_dir: str | None = None, progress: _Progress = None
) -> dict[str, int | list[dict[str, str]]]:
    """Hash every object of the store, or every file and object of one artifact, and report what is wrong."""

def gc(store: str, older_than_s: int, dry_run: bool, progress: _Progress = None) -> dict[str, int]:
    """Reclaim objects that no artifact reaches and that were condemned at least `older_than_s` seconds ago."""

def diff(store: str, first: str, second: str) -> dict[str, Any]:
    """Compare two artifacts: paths added, removed and changed, and the bytes of chunks they share."""

def usage(artifact_dirs: list[str]) -> list[tuple[int, int, int]]:
    """Apparent, stored and unique bytes of each artifact, then of all together."""

def hash_file(path: str, progress: _Progress = None) -> str:
    """BLAKE3 digest of a file, the value that `b3sum` prints."""

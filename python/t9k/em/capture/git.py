"""The commit of the script's repository, and how the work tree differs from it."""

from __future__ import annotations

import os
from typing import Any

from t9k.em.capture.secrets import scrub, scrub_source

MAX_DIFF_BYTES = 64 << 10
"""A diff beyond this is cut: it is a record, not a backup, and every `load_run` parses it."""

TIMEOUT_S = 5.0
"""For each call of git: a repository on a network file system can take minutes."""

# The repository's configuration could name programs for git to run.
_GIT = ("git", "--no-pager", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")


def read_git(folder: str) -> dict[str, Any]:
    """Returns commit, branch, remote, dirty and diff; empty outside a repository.

    ``dirty`` and ``diff`` are about tracked files. The remote has no
    credentials, and what looks like a secret in the diff is masked.
    """
    root = _output(folder, "rev-parse", "--show-toplevel")
    if not root:
        return {}
    diff = _output(root, "diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD", limit_bytes=MAX_DIFF_BYTES + 1)
    found: dict[str, Any] = {
        "root": root,
        "commit": _output(root, "rev-parse", "--verify", "-q", "HEAD"),
        "branch": _output(root, "symbolic-ref", "-q", "--short", "HEAD"),
        "remote": scrub(_output(root, "config", "--get", "remote.origin.url")),
        "dirty": bool(diff),
    }
    if diff:
        text = scrub_source(diff)
        is_cut = len(diff.encode()) > MAX_DIFF_BYTES
        found["diff"] = f"{text[:MAX_DIFF_BYTES]}\n[cut at {MAX_DIFF_BYTES} bytes]" if is_cut else text
    return found


def _output(folder: str, *words: str, limit_bytes: int = 16 << 10) -> str:
    """Returns what git says without the last newline; empty if it fails or takes too long."""
    import subprocess
    import threading

    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        process = subprocess.Popen(
            [*_GIT, *words],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, ValueError):
        return ""
    timer = threading.Timer(TIMEOUT_S, process.kill)
    timer.daemon = True
    timer.start()
    with process:
        assert process.stdout is not None
        data = process.stdout.read(limit_bytes)
        if len(data) == limit_bytes:
            process.kill()
        code = process.wait()
        timer.cancel()
    if code and len(data) < limit_bytes:
        return ""
    return data.decode("utf-8", "replace").rstrip("\n")

"""The commit of the script's repository, and how the work tree differs from it."""

from __future__ import annotations

import os
import time
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
    deadline_s = time.monotonic() + TIMEOUT_S
    with process:
        assert process.stdout is not None
        data, is_whole = _read(process.stdout.fileno(), limit_bytes, deadline_s)
        try:
            code = process.wait(max(0.0, deadline_s - time.monotonic()) if is_whole else 0.0)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    if code and len(data) < limit_bytes:
        return ""
    return data.decode("utf-8", "replace").rstrip("\n")


def _read(fd: int, limit_bytes: int, deadline_s: float) -> tuple[bytes, bool]:
    """Reads up to a limit and a time, and tells whether that was all.

    Without a thread: from Python 3.12 on a script that ends gets none any more.
    """
    import select

    poller = select.poll()
    poller.register(fd, select.POLLIN)
    data = b""
    while len(data) < limit_bytes and (left_s := deadline_s - time.monotonic()) > 0:
        if not poller.poll(left_s * 1000):
            continue
        block = os.read(fd, limit_bytes - len(data))
        if not block:
            return data, True
        data += block
    return data, False

"""Runs of the tests print to pytest, not through a helper process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_output_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_CAPTURE", "0")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a store and a cache of its own; the machine's use is not recorded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("EM_SYSTEM_METRICS", "0")
    for name in ("EM_RUN_PARENT_DIR", "EM_ARTIFACT_PARENT_DIR", "EM_STORE_DIR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def files(directory: Path) -> Path:
    """The directory with `a/1.txt` and `a/2.bin` of 3 MiB."""
    Path("a").mkdir()
    Path("a/1.txt").write_text("one")
    Path("a/2.bin").write_bytes(os.urandom(3 << 20))
    return directory


@pytest.fixture(scope="session", autouse=True)
def heeded_interrupts() -> None:
    """A shell has the commands that it starts in the background ignore SIGINT, and so would their children."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def interrupt() -> Callable[[subprocess.Popen[Any]], tuple[int, Any]]:
    """Sends SIGINT, and returns exit code and standard error; what ignores it is killed."""

    def send(process: subprocess.Popen[Any]) -> tuple[int, Any]:
        process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, errors

    return send

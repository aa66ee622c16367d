"""Runs of the tests print to pytest, not through a helper process of their own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def no_output_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_CAPTURE", "0")


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

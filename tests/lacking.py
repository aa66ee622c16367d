"""What a machine lacks that a test needs."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def lacks(why: str) -> NoReturn:
    """Skips the test; in CI only for want of the kernel's own."""
    if os.environ.get("CI") and "kernel" not in why:
        pytest.fail(f"{why}, and CI must not skip it")
    pytest.skip(why)


def need_strace() -> None:
    if shutil.which("strace") is None:
        lacks("strace is missing")

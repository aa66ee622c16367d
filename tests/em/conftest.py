"""Runs of the tests print to pytest, not through a helper process of their own."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_output_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_CAPTURE", "0")

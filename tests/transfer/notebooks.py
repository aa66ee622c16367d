"""A real notebook kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Notebook:
    """A kernel and its client."""

    def __init__(self) -> None:
        from jupyter_client.manager import KernelManager

        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel()
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def run(self, code: str) -> dict[str, str]:
        """Runs a cell and returns what it shows: ``text``, ``html``, ``out`` and ``error``."""
        shown: dict[str, str] = {"out": ""}

        def show(message: dict[str, Any]) -> None:
            content = message["content"]
            if message["msg_type"] == "stream":
                shown["out"] += content["text"]
            elif message["msg_type"] == "error":
                shown["error"] = content["ename"]
            elif "data" in content:
                shown["text"] = content["data"].get("text/plain", "")
                shown["html"] = content["data"].get("text/html", "")

        self.client.execute_interactive(code, timeout=60, output_hook=show)
        return shown

    def stop(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@contextmanager
def notebook_in(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """A kernel whose output is captured; Jupyter and IPython write nowhere else."""
    monkeypatch.setenv("EM_CAPTURE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(directory / "ipython"))
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(directory / name))
    notebook = Notebook()
    yield notebook
    notebook.stop()

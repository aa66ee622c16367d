"""Configuration: contexts, and files that must not break an import."""

from __future__ import annotations

from pathlib import Path

import pytest
from t9k.config import Config

TEXT = """current-context: b
contexts:
- name: a
  server: https://a.example
- name: b
  server: https://b.example/
  prefixes:
    aistore: /t9k/aistore/server
    asset-hub: /t9k/asset-hub/server
  auth:
    apikey: secret-key
    token: secret-token
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "t9k-config.yaml"
    monkeypatch.setenv("T9K_CONFIG", str(path))
    return path


def test_current_context_is_used(file: Path) -> None:
    file.write_text(TEXT)
    assert dict(Config()) == {
        "aistore_host": "https://b.example/t9k/aistore/server",
        "asset_hub_host": "https://b.example/t9k/asset-hub/server",
        "api_key": "secret-key",
        "token": "secret-token",
    }
    assert "secret" not in repr(Config())


def test_api_key_spelled_as_in_the_manual_is_read(file: Path) -> None:
    file.write_text(TEXT.replace("apikey", "api_key"))
    assert Config()["api_key"] == "secret-key"


@pytest.mark.parametrize("text", [None, "", "[", "- a\n", "contexts: 3\n", "a: &a 1\nb: *a\n", "contexts: [1, {}]\n"])
def test_missing_or_wrong_file_leaves_none(file: Path, text: str | None) -> None:
    if text is not None:
        file.write_text(text)
    config = Config()
    assert config["api_key"] is None
    assert config["aistore_host"] is None


def test_changes_live_in_memory_only(file: Path) -> None:
    file.write_text(TEXT)
    config = Config()
    config.update({"api_key": "other"})
    config["aistore_host"] = "x"
    assert (config["api_key"], config["aistore_host"]) == ("other", "x")
    assert file.read_text() == TEXT

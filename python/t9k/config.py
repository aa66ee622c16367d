"""`t9k.CONFIG`: the settings of the current context, read on first use.

A missing or unreadable file, or a missing key, leaves values None: importing
and reading never fail. Changes live in memory only.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, MutableMapping
from typing import Any

MAX_FILE_BYTES = 1 << 20
"""A configuration file that is larger is taken for something else."""

_KEYS = ("aistore_host", "asset_hub_host", "api_key", "token")
_PREFIXES = {"aistore_host": "aistore", "asset_hub_host": "asset-hub"}


def config_path() -> str:
    """Returns the path in T9K_CONFIG, else ``~/.t9k/t9k-config.yaml``."""
    return os.environ.get("T9K_CONFIG") or os.path.expanduser("~/.t9k/t9k-config.yaml")


class Config(MutableMapping[str, Any]):
    """Settings as a dict; the file is read when the first one is asked for."""

    def __init__(self) -> None:
        """Reads nothing yet."""
        self._lock = threading.RLock()
        self._values: dict[str, Any] | None = None

    def _loaded(self) -> dict[str, Any]:
        with self._lock:
            if self._values is None:
                self._values = dict.fromkeys(_KEYS) | _read_context(config_path())
            return self._values

    def __getitem__(self, key: str) -> Any:
        return self._loaded()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._loaded()[key] = value

    def __delitem__(self, key: str) -> None:
        del self._loaded()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._loaded()))

    def __len__(self) -> int:
        return len(self._loaded())

    def __repr__(self) -> str:
        hidden = {key: "***" if key in ("api_key", "token") and value else value for key, value in self.items()}
        return f"Config({hidden!r})"


def _read_context(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError:
        return {}
    return settings_of(data)


def settings_of(data: bytes) -> dict[str, Any]:
    """Returns the settings of the current context of a file's bytes, none if they are wrong in any way."""
    from t9k.em.errors import InvalidInputError
    from t9k.em.run_files import parse_yaml

    if len(data) > MAX_FILE_BYTES:
        return {}
    try:
        document = parse_yaml(data, "the configuration")
    except InvalidInputError:
        return {}
    contexts = document.get("contexts")
    for context in contexts if isinstance(contexts, list) else []:
        if _dict(context).get("name") == document.get("current-context"):
            return _settings(_dict(context))
    return {}


def _settings(context: dict[Any, Any]) -> dict[str, Any]:
    auth, prefixes = _dict(context.get("auth")), _dict(context.get("prefixes"))
    settings: dict[str, Any] = {"api_key": auth.get("apikey") or auth.get("api_key"), "token": auth.get("token")}
    server = context.get("server")
    for key, service in _PREFIXES.items():
        prefix = prefixes.get(service)
        if isinstance(server, str) and isinstance(prefix, str):
            settings[key] = server.rstrip("/") + "/" + prefix.lstrip("/")
    return settings


def _dict(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


CONFIG = Config()

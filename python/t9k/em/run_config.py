"""The Run config file of `create_run`, checked key by key."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from t9k.em.errors import InvalidInputError, NotFoundError
from t9k.em.params import to_plain
from t9k.em.run_files import check_name, node_value, path_text, read_yaml_node


def _is_labels(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(label, str) for label in value)


_KEYS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "name": ("text", lambda value: isinstance(value, str)),
    "hparams": ("a mapping", lambda value: isinstance(value, dict)),
    "labels": ("a list of texts", _is_labels),
    "description": ("text", lambda value: isinstance(value, str)),
    "auto_upload": ("true or false", lambda value: isinstance(value, bool)),
    "folder": ("text", lambda value: isinstance(value, str)),
    "make_folder": ("true or false", lambda value: isinstance(value, bool)),
    "conflict_strategy": (
        "skip, error, new or replace",
        lambda value: value in ("skip", "error", "new", "replace"),
    ),
}


_CHECKS: dict[str, Callable[[Any], object]] = {
    "name": check_name,
    "hparams": lambda value: to_plain(value, "hparams"),
}
"""What else must be right, beyond the type: found here, where file and line are known."""


def read_run_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a Run config file; only the keys it has are returned.

    Raises:
        NotFoundError: There is no such file.
        InvalidInputError: A key or a type is wrong; names file, line and the
            nearest valid key.
        StoreError: It cannot be read.
    """
    import yaml

    path = path_text(path, hint="hparams={…}, name=…")
    try:
        root = read_yaml_node(path)
    except NotFoundError as error:
        hint = (
            None
            if os.path.splitext(path)[1]
            else f"a name is given by name={path!r}; the first argument is config_path"
        )
        raise NotFoundError(str(error), hint=hint) from None
    if root is None:
        return {}
    if not isinstance(root, yaml.MappingNode):
        raise InvalidInputError(f"{path}:{root.start_mark.line + 1}: a mapping of keys to values was expected")
    config: dict[str, Any] = {}
    for key_node, value_node in root.value:
        where = f"{path}:{key_node.start_mark.line + 1}"
        key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
        if key not in _KEYS:
            import difflib

            nearest = difflib.get_close_matches(key, _KEYS, n=1, cutoff=0.0)[0]
            raise InvalidInputError(f"{where}: unknown key {key[:80]!r}; did you mean {nearest!r}?")
        if key in config:
            raise InvalidInputError(f"{where}: key {key!r} is there twice")
        expected, is_valid = _KEYS[key]
        value = node_value(path, value_node)
        if not is_valid(value):
            raise InvalidInputError(f"{where}: {key} must be {expected}, not {str(value)[:80]!r}")
        try:
            _CHECKS.get(key, bool)(value)
        except InvalidInputError as error:
            raise InvalidInputError(f"{where}: {error}") from error
        config[key] = value
    return config

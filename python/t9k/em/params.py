"""Hyperparameters of a Run: a mapping that is also an object with attributes.

A value is converted once, when it is set, to what YAML and JSON both hold:
``None``, ``bool``, ``int``, ``float``, ``str``, ``list`` and ``dict`` with
string keys. What is read back from a file therefore equals what was set.
"""

from __future__ import annotations

import enum
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Set
from typing import TYPE_CHECKING, Any, cast

from t9k.em.errors import InvalidInputError

if TYPE_CHECKING:
    import argparse
    import datetime

MAX_DEPTH = 64
"""Nesting beyond this is refused; it is a cycle or a mistake, not a setting."""

_SLOTS = frozenset({"_upload", "_values", "_lock"})


def _type_name(value: object) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is_of(value: object, module: str, name: str) -> bool:
    """Is it an instance of a class of a module? Nothing is, before somebody has imported the module."""
    kind = getattr(sys.modules.get(module), name, None)
    return kind is not None and isinstance(value, kind)


def _is_dataclass(value: object) -> bool:
    return hasattr(type(value), "__dataclass_fields__")


def _fields(value: object) -> dict[str, Any]:
    # Not asdict: it would deep-copy fields before they can be refused by name.
    from dataclasses import fields

    return {field.name: getattr(value, field.name) for field in fields(cast(Any, value))}


def _is_dtype(value: object) -> bool:
    # Recognised by name, so that no framework has to be imported.
    kind = type(value)
    root = kind.__module__.partition(".")[0]
    names = [base.__name__.lower() for base in kind.__mro__]
    return root in {"numpy", "torch", "tensorflow", "jax", "ml_dtypes"} and any(
        name.endswith("dtype") for name in names
    )


def _array_item(value: object) -> object:
    """Returns the Python number in a scalar of NumPy's kind, else the value."""
    if getattr(value, "shape", None) != ():
        return value
    item = getattr(value, "item", None)
    if not callable(item) and callable(numpy := getattr(value, "numpy", None)):
        item = getattr(numpy(), "item", None)
    return item() if callable(item) else value


def to_plain(value: object, key: str) -> Any:
    """Converts a value to what YAML and JSON both hold.

    Paths become their string, enum members their value, dtypes their name
    (``float32``), dataclasses and ``argparse.Namespace`` a dict, NumPy-like
    scalars a Python number, tuples a list and sets a sorted list.

    Args:
        value: What the user set.
        key: Dotted name of the value, for the error.

    Raises:
        InvalidInputError: The value, or a part of it, has no such form.
    """
    return _convert(value, key, 0)


def _convert(value: object, key: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise InvalidInputError(f"hyperparameter {key[:200]!r} nests more than {MAX_DEPTH} levels, or contains itself")
    # An enum that is also a str or int must lose its class, or YAML refuses it.
    if isinstance(value, enum.Enum):
        return _convert(value.value, key, depth + 1)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(str(value), key)
    if isinstance(value, os.PathLike):
        return _text(os.fsdecode(value), key)
    if _is_of(value, "datetime", "date"):  # includes datetime
        return cast("datetime.date", value).isoformat()
    if _is_dtype(value):
        name = getattr(value, "name", None)
        return name if isinstance(name, str) else str(value).rpartition(".")[2]
    if isinstance(value, Params):
        return _convert_mapping(value.to_dict(), key, depth)
    if isinstance(value, Mapping):
        return _convert_mapping(value, key, depth)
    if _is_dataclass(value):
        return _convert_mapping(_fields(value), key, depth)
    if _is_of(value, "argparse", "Namespace"):
        return _convert_mapping(vars(value), key, depth)
    if isinstance(value, tuple | list):
        return [_convert(item, f"{key}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, Set):
        items = [_convert(item, key, depth + 1) for item in value]
        return sorted(items, key=lambda item: (type(item).__name__, str(item)))
    if isinstance(value, type) and value.__module__.partition(".")[0] in {"numpy", "jax"}:
        return value.__name__  # np.float32 is used as a dtype
    number = _array_item(value)
    if number is not value:
        return _convert(number, key, depth + 1)
    raise InvalidInputError(
        f"hyperparameter {key!r} has a value of type {_type_name(value)}, which cannot be kept in YAML; "
        "set a number, text, list or dict instead"
    )


def _text(value: str, key: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"hyperparameter {key!r} contains text that is not valid Unicode") from error
    return value


def _convert_mapping(value: Mapping[Any, object], key: str, depth: int) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, item in value.items():
        text = _key(name, key)
        if text in plain:
            raise InvalidInputError(f"hyperparameter {key!r} has two keys that both read {text!r}")
        plain[text] = _convert(item, f"{key}.{text}" if key else text, depth + 1)
    return plain


def _key(name: object, parent: str = "") -> str:
    where = f" in {parent!r}" if parent else ""
    if isinstance(name, enum.Enum):
        name = name.value
    if isinstance(name, str):
        return _text(str(name), repr(name))
    if isinstance(name, int | float) and not isinstance(name, bool):
        return str(name)
    raise InvalidInputError(f"hyperparameter key {name!r}{where} is a {_type_name(name)}; keys are text")


class Params(MutableMapping[str, Any]):
    """Container of the hyperparameters of a Run.

    Works like a dict and like an object with attributes. A key that is also
    the name of a method (``items``, ``update``) is reached as an item, because
    the attribute stays the method.

    Changes are safe from several threads. Each change is complete in memory
    before ``upload`` is called, so ``upload`` may read this object. Values
    read back are the stored ones: change a nested dict or list by assigning
    the key again, else ``upload`` does not hear of it.

    Example:
        >>> params = Params(upload=lambda: None)
        >>> params.update({"batch_size": 32, "epochs": 10})
        >>> params.epochs = 20
        >>> params["epochs"]
        20
    """

    _upload: Callable[[], object]
    _values: dict[str, Any]
    _lock: threading.RLock

    def __init__(
        self,
        upload: Callable[[], object],
        init_hparams: Mapping[str, Any] | None = None,
    ) -> None:
        """Creates the container without calling ``upload``.

        Args:
            upload: Called without arguments after every change.
            init_hparams: Initial hyperparameters.

        Raises:
            InvalidInputError: A value cannot be kept in YAML.
        """
        object.__setattr__(self, "_upload", upload)
        object.__setattr__(self, "_lock", threading.RLock())
        object.__setattr__(self, "_values", _mapping(init_hparams or {}))

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def __delitem__(self, key: str) -> None:
        with self._lock:
            del self._values[key]
            self._upload()

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._values))

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        # Unpickling and copying ask for attributes before __init__ has run.
        values = self.__dict__.get("_values", {})
        if name in values:
            return values[name]
        raise AttributeError(f"no hyperparameter {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _SLOTS or hasattr(type(self), name):
            raise InvalidInputError(
                f"hyperparameter {name!r} cannot be set as an attribute, it is a name of Params itself; "
                f"use params[{name!r}] = …"
            )
        self[name] = value

    def __delattr__(self, name: str) -> None:
        if name not in self._values:
            raise AttributeError(f"no hyperparameter {name!r}")
        del self[name]

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(key for key in self._values if key.isidentifier())})

    def __repr__(self) -> str:
        return f"Params({self._values!r})"

    def _repr_html_(self) -> str:
        from t9k.em.notebook import flatten, table

        return table("Params", flatten(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """Returns a copy that shares nothing with this object."""
        # Without the lock: its holder may be waiting for the one who asks. A dict is copied in one step.
        return _mapping(dict(self._values))

    def _adopt(self, key: str, value: Any, *, is_removed: bool = False) -> None:
        """Takes over what another process has changed, without a call of ``upload``."""
        if is_removed:
            self._values.pop(key, None)
        else:
            self._values[key] = _convert(value, key, 0)

    def clear(self) -> None:
        """Removes all hyperparameters with a single call of ``upload``."""
        with self._lock:
            self._values.clear()
            self._upload()

    def update(  # type: ignore[override]
        self, new_params: Mapping[str, Any] | argparse.Namespace, override: bool = True
    ) -> None:
        """Updates with new params: all of them, or on an error none.

        Args:
            new_params: New params to be updated with.
            override: Whether to override current params. If False, a key
                that is present keeps its value.

        Raises:
            InvalidInputError: A value cannot be kept in YAML.
        """
        plain = _mapping(new_params)
        with self._lock:
            if not override:
                plain = {key: value for key, value in plain.items() if key not in self._values}
            if plain:
                self._values.update(plain)
                self._upload()

    def parse(
        self,
        dist_tf_strategy: Any = None,
        dist_torch_model: Any = None,
        dist_hvd: Any = None,
    ) -> None:
        """Parses hyperparameters from various objects of various frameworks.

        Sets ``dist`` to a dict with ``framework``, ``strategy`` and what the
        object says about its processes and devices.

        Args:
            dist_tf_strategy: TensorFlow distribution strategy instance if
                tf.distribute is used for distributed training.
            dist_torch_model: PyTorch model wrapped with DP or DDP if
                torch.distributed is used for distributed training.
            dist_hvd: Used module such as horovod.keras and horovod.torch if
                Horovod is used for distributed training.

        Raises:
            InvalidInputError: An object is not of the kind its name says.
        """
        if dist_tf_strategy is not None:
            self["dist"] = _parse_tf_strategy(dist_tf_strategy)
        if dist_torch_model is not None:
            self["dist"] = _parse_torch_model(dist_torch_model)
        if dist_hvd is not None:
            self["dist"] = _parse_horovod(dist_hvd)


def _mapping(value: object) -> dict[str, Any]:
    if _is_of(value, "argparse", "Namespace"):
        value = vars(value)
    elif _is_dataclass(value):
        value = _fields(value)
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"hyperparameters must be a dict, not {_type_name(value)}")
    return _convert_mapping(value, "", 0)


_TF_NAMES = {"CollectiveAllReduceStrategy": "MultiWorkerMirroredStrategy"}
"""Classes whose public name in ``tf.distribute`` is another one."""


def _parse_tf_strategy(strategy: Any) -> dict[str, Any]:
    replicas = getattr(strategy, "num_replicas_in_sync", None)
    if replicas is None:
        raise InvalidInputError(f"dist_tf_strategy is a {_type_name(strategy)}, not a tf.distribute strategy")
    return {
        "framework": "tensorflow",
        "strategy": _TF_NAMES.get(type(strategy).__name__, type(strategy).__name__),
        "num_replicas_in_sync": int(replicas),
    }


def _parse_torch_model(model: Any) -> dict[str, Any]:
    names = {base.__name__ for base in type(model).__mro__}
    devices = getattr(model, "device_ids", None)
    parsed: dict[str, Any] = {"framework": "torch", "strategy": type(model).__name__}
    if devices is not None:
        parsed["device_ids"] = [int(getattr(device, "index", device) or 0) for device in devices]
    if "DistributedDataParallel" in names:
        group = getattr(model, "process_group", None)
        if group is not None:
            parsed["world_size"] = int(group.size())
        return parsed
    if "DataParallel" in names:
        return parsed
    raise InvalidInputError(
        f"dist_torch_model is a {_type_name(model)}, not a DataParallel or DistributedDataParallel model"
    )


def _parse_horovod(module: Any) -> dict[str, Any]:
    size = getattr(module, "size", None)
    if not callable(size):
        raise InvalidInputError(f"dist_hvd is a {_type_name(module)}, not a Horovod module such as horovod.torch")
    return {
        "framework": "horovod",
        "strategy": str(getattr(module, "__name__", "horovod")),
        "size": int(size()),
    }

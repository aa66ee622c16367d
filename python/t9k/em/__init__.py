"""Runs, artifacts and hyperparameters of machine learning experiments: `from t9k import em`.

A name's module is imported when the name is first used, which `em hash` never does. Hence no module here may have
the name of a function below: importing it would put the module in the function's place.
"""

from __future__ import annotations

from t9k.em.capture import exit_code as _exit_code  # noqa: F401 - before the script looks sys.exit up

TYPE_CHECKING = False  # the one of typing costs an import, and type checkers know this one too
if TYPE_CHECKING:
    from t9k.em.artifact import Artifact, create_artifact, load_artifact
    from t9k.em.client.connection import login, logout
    from t9k.em.params import Params
    from t9k.em.run import Run, create_run, load_run
    from t9k.em.transfer.paths import upload

__all__ = [
    "Artifact",
    "Params",
    "Run",
    "create_artifact",
    "create_run",
    "load_artifact",
    "load_run",
    "login",
    "logout",
    "upload",
]

_HOMES = {
    "Artifact": "artifact",
    "Params": "params",
    "Run": "run",
    "create_artifact": "artifact",
    "create_run": "run",
    "load_artifact": "artifact",
    "load_run": "run",
    "login": "client.connection",
    "logout": "client.connection",
    "upload": "transfer.paths",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

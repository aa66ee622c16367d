"""``hyperparameters.yaml``, which several processes may change: each writes its changes over what others have written.

There is no lock, as nowhere below ``.em/``. A process looks at the file once
more just before it replaces it, so that changes would have to meet within
microseconds for one to be lost.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable

from t9k.em.errors import EmError
from t9k.em.params import Params
from t9k.em.run_files import read_yaml, write_yaml

_GONE = object()
_TRIES = 10


class HparamsFile:
    """The file of a Run's `Params`, and what it had when this process last saw it."""

    def __init__(self, path: str, params: Callable[[], Params]) -> None:
        """Neither reads nor writes.

        Args:
            path: The file.
            params: Returns what belongs into it; the file has the same, or is not there yet.
        """
        self._path = path
        self._params = params
        self._known = params().to_dict()
        self._state: tuple[int, ...] | None = None

    def write(self) -> None:
        """Replaces the file; what others have changed in it meanwhile goes into the `Params` as well.

        Of a key that both have changed, the value of this process stays.

        Raises:
            StoreError: The file cannot be written.
        """
        for attempt in range(_TRIES):
            state = _look(self._path)
            if state != self._state:
                self._merge()
            mine = self._params().to_dict()
            is_last = attempt == _TRIES - 1
            is_wanted = None if is_last else functools.partial(self._is_still, state)
            done = write_yaml(self._path, mine, is_wanted)
            if done is not None:
                self._known, self._state = mine, _state(done)
                return

    def _is_still(self, state: tuple[int, ...]) -> bool:
        return _look(self._path) == state

    def _merge(self) -> None:
        try:
            theirs = read_yaml(self._path)
        except EmError:  # not there, or spoilt by somebody: what this process knows replaces it
            return
        mine = self._params().to_dict()
        for key in {**self._known, **theirs}:
            known, value = self._known.get(key, _GONE), theirs.get(key, _GONE)
            if value != known and mine.get(key, _GONE) == known:
                self._params()._adopt(key, value, is_removed=value is _GONE)
        self._known = theirs


def _look(path: str) -> tuple[int, ...]:
    try:
        return _state(os.stat(path))
    except OSError:
        return ()


def _state(found: os.stat_result) -> tuple[int, ...]:
    return found.st_ino, found.st_size, found.st_mtime_ns

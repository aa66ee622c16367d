"""One process at a time sends a run: ``.sync.lock`` in its directory, which names its holder.

A holder that is gone for certain is replaced. Of one on another host that cannot be known: there the lock's age counts,
which its holder renews.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from types import TracebackType

from t9k.em.capture import heartbeat
from t9k.em.errors import ConflictError, StoreError

FILE = ".sync.lock"
MAX_FILE_BYTES = 4096


class IsHeldError(ConflictError):
    """Another process has the lock."""


class SyncLock:
    """Held from `__enter__` to `__exit__`, renewed by a thread meanwhile: a step may take hours."""

    def __init__(self, run_dir: str) -> None:
        """Takes nothing yet."""
        self._run_dir = run_dir
        self._path = os.path.join(run_dir, FILE)
        self._text = json.dumps({**heartbeat.identify(), "nonce": secrets.token_hex(8)})
        self._is_over = threading.Event()

    def __enter__(self) -> SyncLock:
        """Takes the lock.

        Raises:
            IsHeldError: Another process has it.
            StoreError: The file cannot be written.
        """
        temporary = f"{self._path}.{secrets.token_hex(8)}"
        try:
            with open(temporary, "x", encoding="utf-8") as file:
                file.write(self._text)
            for _ in range(3):
                try:
                    os.link(temporary, self._path)
                    threading.Thread(target=self._keep, name="em-sync-lock", daemon=True).start()
                    return self
                except FileExistsError:
                    self._remove_if_gone()
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from error
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise IsHeldError(f"another process is sending the run {self._run_dir}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        if _read(self._path) == self._text:
            with contextlib.suppress(OSError):
                os.unlink(self._path)

    def renew(self) -> bool:
        """Says that the holder lives; answers whether it still holds the lock."""
        if _read(self._path) != self._text:
            return False
        with contextlib.suppress(OSError):
            os.utime(self._path)
        return True

    def _keep(self) -> None:
        while not self._is_over.wait(heartbeat.BEAT_S) and self.renew():
            pass

    def _remove_if_gone(self) -> None:
        text = _read(self._path)
        if text is None or not is_held(self._run_dir):
            # Renamed first: of two that find the holder gone, one takes the file away, and never the other's new one.
            grave = f"{self._path}.{secrets.token_hex(8)}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(self._path, grave)
                if _read(grave) != text:
                    with contextlib.suppress(FileExistsError):
                        os.link(grave, self._path)
                os.unlink(grave)


def is_held(run_dir: str) -> bool:
    """Whether a process that is not known to be gone sends the run."""
    text = _read(os.path.join(run_dir, FILE))
    if text is None:
        return False
    try:
        holder = json.loads(text)
    except ValueError:
        return False
    is_known = isinstance(holder, dict) and isinstance(holder.get("pid"), int)
    return is_known and not heartbeat.is_gone(holder, run_dir, FILE)


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(MAX_FILE_BYTES)
    except (OSError, ValueError):
        return None

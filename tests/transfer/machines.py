"""Machines of users: each with a home, a store and a session, in this process or in one that is killed."""

from __future__ import annotations

import os
import pickle
import signal
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t9k.em import Artifact
from t9k.em.client.session import Session
from t9k.em.errors import EmError
from world import Content


@dataclass
class Local:
    """An artifact on a machine, and what must be in it."""

    artifact: Artifact
    content: Content


@dataclass
class Machine:
    """Where a user works."""

    user: str
    home: Path
    session: Session
    artifacts: list[Local] = field(default_factory=list)

    def enter(self) -> None:
        """From here on the client's functions work on this machine."""
        os.environ["EM_STORE_DIR"] = self.store
        os.environ["EM_ARTIFACT_PARENT_DIR"] = str(self.home / "artifacts")
        os.environ["XDG_CACHE_HOME"] = str(self.home / "cache")

    @property
    def store(self) -> str:
        return str(self.home / "store")


class Child:
    """A forked process: `result` is what `work` returned, the error that it raised, or None if it was killed."""

    def __init__(self, work: Callable[[], Any]) -> None:
        read, write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                os.close(read)
                try:
                    result = work()
                except EmError as error:
                    result = type(error)(str(error))
                except BaseException:
                    result = AssertionError(traceback.format_exc())
                with open(write, "wb") as pipe:
                    pickle.dump(result, pipe)
            finally:
                os._exit(0)
        os.close(write)
        self._pipe = open(read, "rb")  # noqa: SIM115 - closed by `join`

    def join(self) -> Any:
        """Waits for its end. An error that is not one of the client's is raised here."""
        with self._pipe:
            text = self._pipe.read()
        os.waitpid(self._pid, 0)
        result = pickle.loads(text) if text else None
        if isinstance(result, AssertionError):
            raise result
        return result


def die_at_request(number: int, *, is_answered: bool) -> None:
    """Kills this process when it sends its request of this number, or when the answer has come."""
    send, count = Session._send, 0

    def counted(self: Session, *args: Any) -> Any:
        nonlocal count
        count += 1
        is_last = count == number
        if is_last and not is_answered:
            os.kill(os.getpid(), signal.SIGKILL)
        answer = send(self, *args)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    Session._send = counted  # type: ignore[method-assign]

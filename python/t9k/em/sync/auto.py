"""`auto_upload`: starts the helper process of a run, and waits for it at the end for a bounded time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from t9k.em.artifact import store_dir
from t9k.em.errors import ConflictError, EmError, TransferError
from t9k.em.sync import state as states
from t9k.em.sync.lock import SyncLock, is_held
from t9k.em.sync.waiting import SyncProgress, unsent_text
from t9k.em.warn import warn

if TYPE_CHECKING:
    from t9k.em.client.session import Session

FINISH_S = 60.0
"""`finish` waits this long for what is unsent; EM_SYNC_FINISH_S changes it."""

FAILURE_S = 15.0
"""The same where the script ends by an exception or a signal: a scheduler's grace time runs."""

_launching = threading.Lock()
# A child that is forked while a process starts would keep a pipe of that open for as long as it lives, and the start
# would wait for just as long: workers that load data live until training ends.
os.register_at_fork(before=_launching.acquire, after_in_parent=_launching.release, after_in_child=_launching.release)

_POLL_S = 0.05
_START_S = 5.0


class AutoUpload:
    """Sends a run's directory from another process. Nothing of it raises into a script that has begun to log."""

    def __init__(self, folder: str, make_folder: bool, conflict_strategy: str) -> None:
        """Looks whether it can be done at all.

        Raises:
            InvalidInputError: The folder or the strategy is none.
            AuthError: Nobody is logged in, or the key is refused; unless EM_MODE is ``offline``: then nothing is sent
                before `em sync`.
        """
        from t9k.em.client.placement import Target

        self._target = Target(folder, make_folder, conflict_strategy)
        self._session: Session | None = None
        if os.environ.get("EM_MODE") != "offline":
            from t9k.em.client.connection import connected, unasked

            try:
                self._session = connected()
            except TransferError as error:  # a job that has waited for days does not end here
                self._session = unasked()
                warn(f"the run is not uploaded before the server is back: {error}")
        self._run_dir = ""
        self._began = 0.0

    def start(self, run_dir: str) -> None:
        """Notes that the run is to be sent, and starts the helper. A run that was sent before stays where it is.

        Raises:
            InvalidInputError: The state of an earlier upload cannot be read.
            StoreError: The run's directory cannot be written.
        """
        self._run_dir, self._began = run_dir, time.monotonic()
        with suppress(ConflictError), SyncLock(run_dir):  # the helper of an earlier process may still be at it
            target = self._target
            before = states.load(run_dir)
            state = before or states.SyncState(target.folder, target.make_folder, target.conflict_strategy)
            state.is_done, state.is_home = False, True
            state.save(run_dir)
        if self._session is not None:
            # A thread: starting a process takes longer than making a run may.
            threading.Thread(target=self._start, args=(self._session,), name="t9k-sync", daemon=True).start()

    def finish(self, *, is_failure: bool) -> states.SyncState | None:
        """Waits until all is sent, at most for the time above, and says on standard error what is not.

        Returns:
            What was acknowledged; None if that is not known.
        """
        if self._session is None:
            return None
        state = self._wait(_limit_s(FAILURE_S if is_failure else FINISH_S))
        if state is None or state.is_done or state.is_skipped:
            return state
        left = unsent_text(self._run_dir, state)
        reason = f" ({state.problem})" if state.problem else ""
        rest = "it goes on in the background" if is_held(self._run_dir) else "`em sync` sends it"
        print(f"t9k: {left} of run {self._run_dir} are not uploaded yet{reason}; {rest}", file=sys.stderr)
        return state

    def _wait(self, limit_s: float) -> states.SyncState | None:
        deadline = time.monotonic() + limit_s
        with SyncProgress(self._run_dir) as progress:
            while True:
                try:
                    state = states.load(self._run_dir)
                except EmError:
                    return None
                now = time.monotonic()
                has_started = is_held(self._run_dir)
                is_over = not has_started and now > self._began + _START_S
                if state is None or state.is_done or state.is_skipped or is_over or now >= deadline:
                    return state
                progress.show(state)
                time.sleep(_POLL_S)

    def _start(self, session: Session) -> None:
        try:
            with _launching:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "t9k.em.sync.helper", os.path.abspath(self._run_dir)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env=_environment(),
                    close_fds=True,
                    start_new_session=True,
                )
            login = {"url": session.url, "key": session.api_key, "user": session.user}
            process.communicate(json.dumps(login).encode() + b"\n")
        except (OSError, ValueError) as error:  # no process, no Python: the record is whole without it
            warn(f"the run is not uploaded while it runs: {error}; `em sync` does so later")


def _environment() -> dict[str, str]:
    """This process's, with the store's absolute path, and this package first: `sys.path` may have been changed."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    store = os.path.abspath(store_dir())
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "EM_STORE_DIR": store, "EM_QUIET": "1"}


def _limit_s(default_s: float) -> float:
    text = os.environ.get("EM_SYNC_FINISH_S", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        return default_s

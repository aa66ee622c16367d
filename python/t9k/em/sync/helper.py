"""The process that sends a run while it grows; started by `auto`, as `python -P -m t9k.em.sync.helper DIRECTORY`.

Address and key come in one line of JSON on its standard input. It outlives the script until all is sent, but not
longer than `LINGER_S` after the run has ended: then `em sync`, or the helper of the next run, sends the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import threading
import time

from t9k.em.client.session import Session
from t9k.em.errors import AuthError, EmError
from t9k.em.sync import state as states
from t9k.em.sync.lock import SyncLock, is_held
from t9k.em.sync.push import Push
from t9k.em.sync.send import LASTING, send
from t9k.em.sync.waiting import unsent_runs

STEP_S = 1.0
"""Between two looks at the directory."""

LONGEST_PAUSE_S = 30.0
"""Between two attempts while the server does not answer."""

LINGER_S = 600.0
LOCK_S = 30.0
HURRY_S = 20.0
"""After a SIGTERM a scheduler's grace time runs."""

_hurry = threading.Event()


def main(arguments: list[str]) -> None:
    """Detaches from the script, so that no wait() of it meets this process, and sends."""
    run_dir = arguments[0]
    login = json.loads(sys.stdin.buffer.readline(1 << 16))
    if os.fork():
        os._exit(0)
    os.setsid()
    for name in ("SIGINT", "SIGHUP", "SIGQUIT", "SIGPIPE", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _hurry.set())
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.chdir("/")
    session = Session.open(login["url"], login["key"])
    session.user = login["user"]
    session.attempts = 1  # `follow` repeats
    with contextlib.suppress(EmError):  # nobody is there to read it; the state has the problem
        follow(session, run_dir)
    send_others(session, run_dir)


def follow(session: Session, run_dir: str) -> None:
    """Sends a run until it has ended and all of it was acknowledged, or for too long afterwards.

    Raises:
        ConflictError: Another process sends it.
        StoreError: Its directory cannot be written.
    """
    with _locked(run_dir) as lock:
        state = states.load(run_dir)
        if state is None:
            return
        with Push(session, run_dir, state) as push:
            failures, ended_at = 0, None
            while lock.renew():
                # Looked at before the step: what the run wrote before its end is then sent with it.
                if push.has_ended() and ended_at is None:
                    ended_at = time.monotonic()
                try:
                    push.step()
                    failures = 0
                    if state.is_skipped:
                        return
                except EmError as error:
                    failures += 1
                    push.note(error)
                    if isinstance(error, LASTING) and error is not push.artifact_error:
                        return
                    if isinstance(error, AuthError) and ended_at is not None:
                        return  # `finish` waits, and a key does not get better
                if ended_at is not None:
                    if push.is_complete():
                        push.done()
                        return
                    patience_s = HURRY_S if _hurry.is_set() else LINGER_S
                    if time.monotonic() - ended_at > patience_s:
                        return
                pause_s = min(STEP_S * 2**failures, LONGEST_PAUSE_S) * random.uniform(0.75, 1.0)
                _hurry.wait(pause_s) if not _hurry.is_set() else time.sleep(min(pause_s, STEP_S))


def _locked(run_dir: str) -> SyncLock:
    """The run's lock, for which the helper of a run that was just continued may have to wait."""
    deadline = time.monotonic() + LOCK_S
    while is_held(run_dir) and time.monotonic() < deadline:
        time.sleep(STEP_S / 4)
    return SyncLock(run_dir)


def send_others(session: Session, run_dir: str) -> None:
    """Sends what earlier processes left unsent beside this run, and what a restored server has lost of it."""
    with contextlib.suppress(EmError):
        session.request("GET", "/session", "cannot ask who is logged in")  # its answer names the history
    for other in unsent_runs(os.path.dirname(run_dir), session):
        if _hurry.is_set():
            return
        with contextlib.suppress(EmError):
            send(session, other)


if __name__ == "__main__":
    main(sys.argv[1:])

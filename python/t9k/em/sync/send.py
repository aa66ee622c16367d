"""All that there is of a run, sent now: `Run.upload`, `em upload` and `em sync`.

They push the same state as the helper process of `auto_upload`, one at a time. So what one of them has sent is not sent
again by another, and a call that was interrupted is continued by whichever comes next.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from t9k.em.client import runs
from t9k.em.client.placement import Target, absolute_path
from t9k.em.errors import AuthError, ConflictError, EmError, InvalidInputError, NotFoundError, TransferError
from t9k.em.sync import state as states
from t9k.em.sync.lock import IsHeldError, SyncLock
from t9k.em.sync.push import Push
from t9k.em.sync.state import SyncState
from t9k.em.sync.waiting import SyncProgress
from t9k.em.transfer.history import entry
from t9k.em.transfer.progress import Report
from t9k.em.transfer.upload import Uploaded

if TYPE_CHECKING:
    from t9k.em.client.session import Session
    from t9k.em.run import Run

LASTING = (InvalidInputError, ConflictError, NotFoundError)
"""Errors that a further attempt meets again: somebody must change something."""

_POLL_S = 0.1


def send(session: Session, run_dir: str) -> SyncState | None:
    """Sends a run to where it was meant to go; answers what was acknowledged, None if it was never meant to go.

    Raises:
        ConflictError: Another process sends it.
        EmError: What could not be sent, and why; it is noted in the run's directory too.
    """
    with SyncLock(run_dir) as lock:
        state = states.load(run_dir)
        if state is not None and not state.is_skipped:
            _push(session, run_dir, state, lock)
        return state


def upload_run(session: Session, run: Run, target: Target) -> Uploaded:
    """Sends a run as far as it has got, and the artifacts that it has marked and the server lacks.

    An upload to the same folder that has not sent everything yet is continued, and so is every upload of a run that
    lives there (`SyncState.is_home`). Where another process is sending the run, this waits until it has sent what
    there is.

    Raises:
        ConflictError: The name is taken, and the strategy says that this is an error; or the run lives in another
            folder, and is not there whole yet.
        NotFoundError: There is no such folder, and `make_folder` is false.
        EmError: As `upload_artifact`.
    """
    uploaded = _upload_or_wait(session, run.local, target)
    if uploaded.is_created:
        run.remember(entry("upload", session, uploaded.path))
    return uploaded


def _upload_or_wait(session: Session, run_dir: str, target: Target) -> Uploaded:
    began = time.time()
    while True:
        try:
            with SyncLock(run_dir) as lock:
                return _upload(session, run_dir, target, lock)
        except IsHeldError:
            if (uploaded := _sent_by_another(session, run_dir, target, began)) is not None:
                return uploaded
        time.sleep(_POLL_S)


def weigh_run(session: Session, run_dir: str, target: Target) -> Uploaded:
    """What an upload would do now: nothing is changed, on the server only if the session is not dry.

    Raises:
        EmError: As `upload_run`.
    """
    state = states.unsaved(_state_for(session, run_dir, states.load(run_dir), target))
    with Push(session, run_dir, state) as push:
        push.step(wait=True)
        return _uploaded(push)


def _push(session: Session, run_dir: str, state: SyncState, lock: SyncLock) -> Push:
    """Sends until nothing is left; of a run that goes on, what there is at first."""
    with SyncProgress(run_dir) as progress, Push(session, run_dir, state, lambda: progress.show(state)) as push:
        progress.show(state)
        try:
            push.step(wait=True)
            while push.has_ended() and not push.is_complete():
                if not lock.renew():
                    raise IsHeldError(f"another process has begun to send the run {run_dir}")
                push.step(wait=True)
        except EmError as error:
            push.note(error)
            raise
        if push.has_ended() and not state.is_skipped:
            push.done()
        return push


def _upload(session: Session, run_dir: str, target: Target, lock: SyncLock) -> Uploaded:
    before = states.load(run_dir)
    state = _state_for(session, run_dir, before, target)
    state.save(run_dir)  # before the first request: the client id is the same in every attempt
    is_refused = False
    try:
        push = _push(session, run_dir, state, lock)
        is_refused = state.is_skipped
    except (*LASTING, AuthError):
        is_refused = not state.node_id
        raise
    finally:
        if is_refused:  # nothing was made: as if it had not been tried
            states.restore(run_dir, before)
    return _uploaded(push)


def _uploaded(push: Push) -> Uploaded:
    if push.node is not None:
        return Uploaded(push.node.path, push.node.id, not push.state.is_skipped, push.report)
    return Uploaded(push.state.path, push.state.node_id, True, push.report)


def _state_for(session: Session, run_dir: str, before: SyncState | None, target: Target) -> SyncState:
    """The state that an upload pushes: the one before where that goes to the same place, else a new one."""
    new = SyncState(target.folder, target.make_folder, target.conflict_strategy)
    if before is None:
        return new
    is_same_place = _is_same_place(session, before, target)
    if not before.node_id:
        if is_same_place and before.is_home and not before.is_skipped:
            # The process beside the script might have been faster: what `create_run` said counts in either case.
            return replace(before, make_folder=before.make_folder or target.make_folder)
        return replace(new, is_home=before.is_home, client_id=before.client_id if is_same_place else new.client_id)
    if not is_same_place:
        _check_leaves_home(run_dir, before)
        return new
    if before.is_done and not before.is_home and _is_sent(session, run_dir, before):
        return new
    try:
        there = runs.get(session, before.node_id, f"cannot upload run {os.path.basename(run_dir)!r}")
    except NotFoundError:  # somebody deleted it there
        return replace(new, is_home=before.is_home)
    node = there.get("node")
    path = node.get("path") if isinstance(node, dict) else None
    return replace(before, path=path if isinstance(path, str) else before.path, is_done=False)


def _is_same_place(session: Session, state: SyncState, target: Target) -> bool:
    folder, wanted = (absolute_path(one.folder, session.user) for one in (state, target))
    return folder == wanted and state.server in ("", session.url)


def _check_leaves_home(run_dir: str, state: SyncState) -> None:
    if state.is_home and not state.is_done:
        place = f"{state.path} of {state.server}" if state.path else f"the folder {state.folder}"
        hint = "upload it there, or elsewhere once `em sync` says that all is sent"
        raise ConflictError(f"the run {run_dir} is on its way to {place}, which does not have all of it yet", hint=hint)


def _is_sent(session: Session, run_dir: str, state: SyncState) -> bool:
    with Push(session, run_dir, state) as push:
        return push.is_complete()


def _sent_by_another(session: Session, run_dir: str, target: Target, began: float) -> Uploaded | None:
    """What has become of the run that another process sends; None as long as that is not known.

    Raises:
        ConflictError: It goes elsewhere.
        TransferError: That process has met something since `began`.
    """
    state = states.load(run_dir)
    if state is None or not state.node_id:
        return None
    if not _is_same_place(session, state, target):
        _check_leaves_home(run_dir, replace(state, is_home=True, is_done=False))
    if _is_sent(session, run_dir, state):
        return Uploaded(state.path, state.node_id, True, Report())
    if state.problem and states.saved_at(run_dir) >= began:
        hint = "the process beside the script goes on trying; `em sync` sends what is left"
        raise TransferError(state.problem, hint=hint)
    return None

"""Who this process is logged in as: `em.login`, `em.logout`, and the session that everything else asks for."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from t9k.config import CONFIG
from t9k.em.errors import AuthError, EmError, InvalidInputError

if TYPE_CHECKING:
    from t9k.em.client.session import Session

LOGIN_ATTEMPTS = 3
"""Few: somebody waits, and a wrong address stays wrong."""

_lock = threading.Lock()
_session: Session | None = None
_is_logged_out = False


def login(ais_host: str | None = None, api_key: str | None = None, timeout: int | None = None) -> None:
    """Log in to an AIStore server.

    Nothing is written: `em login` of the command line keeps address and key in the configuration file, which is used
    without a call of this function too.

    Args:
        ais_host: URL of the server. Defaults to `t9k.CONFIG['aistore_host']`.
        api_key: API key. Defaults to `t9k.CONFIG['api_key']`.
        timeout: Seconds to wait for the server to send data before giving up.

    Raises:
        requests.HTTPError: The server cannot be reached (also a TransferError), or there is no key or it is refused
            (also an AuthError).
        InvalidInputError: The address has no possible form.
    """
    global _session, _is_logged_out
    session = open_session(ais_host or CONFIG["aistore_host"], api_key or CONFIG["api_key"], timeout)
    with _lock:
        previous, _session, _is_logged_out = _session, session, False
    if previous is not None:
        previous.close()


def logout() -> None:
    """Log out from the current AIStore server; nothing happens if there is none."""
    global _session, _is_logged_out
    with _lock:
        previous, _session, _is_logged_out = _session, None, True
    if previous is not None:
        previous.close()


def connected() -> Session:
    """The session of `login`; without one, that of the configuration.

    Raises:
        AuthError: Nobody is logged in, or the key is refused.
        TransferError: The server of the configuration cannot be reached.
    """
    if os.environ.get("EM_MODE") == "offline":
        raise AuthError("not connected to a server: EM_MODE is offline", hint="unset it, or run `em sync` later")
    if _session is not None:
        return _session
    if not is_configured():
        raise AuthError("not logged in to a server", hint="em.login(address, key), or `em login` in a shell")
    login()
    assert _session is not None
    return _session


def is_configured() -> bool:
    """Whether `connected` has a server to ask: nothing is sent."""
    if os.environ.get("EM_MODE") == "offline":
        return False
    return _session is not None or bool(not _is_logged_out and CONFIG["aistore_host"] and CONFIG["api_key"])


def open_session(url: str | None, api_key: str | None, timeout_s: float | None = None) -> Session:
    """A session whose key the server has accepted; its `user` is known.

    Raises:
        requests.HTTPError: As `login`.
        InvalidInputError: As `login`.
    """
    from t9k.em.client.problems import LoginFailedError, LoginRefusedError
    from t9k.em.client.session import ATTEMPTS, Session

    hint = "give address and key to em.login, or keep them with `em login`"
    if not url:
        raise LoginFailedError("cannot log in: no address of a server is known", hint=hint)
    if not api_key:
        raise LoginRefusedError(f"cannot log in to {url}: no API key is known", hint=hint)
    if timeout_s is not None and timeout_s <= 0:
        raise InvalidInputError(f"a timeout of {timeout_s} s is too short", hint="use a number above 0")
    session = Session.open(url, api_key, timeout_s)
    session.attempts = LOGIN_ATTEMPTS
    try:
        session.user = user_of(session)
    except EmError as error:
        session.close()
        if not isinstance(error, AuthError):
            raise LoginFailedError(str(error)) from None
        # The server's hint is for those who speak HTTP.
        hint = "is it whole, of this server, and not expired? `aistore keys` on the server makes another"
        raise LoginRefusedError(str(error).removesuffix(f" (hint: {error.hint})"), hint=hint) from None
    session.attempts = ATTEMPTS
    return session


def unasked() -> Session:
    """The session of the configuration, whose server was not asked: its `user` is not known yet.

    Raises:
        InvalidInputError: The address or the key has no possible form.
    """
    from t9k.em.client.session import Session

    return Session.open(str(CONFIG["aistore_host"]), CONFIG["api_key"])


def user_of(session: Session) -> str:
    """Who the key belongs to.

    Raises:
        AuthError: The key is refused.
        TransferError: The server cannot be reached, or is no AIStore.
    """
    from t9k.em.errors import TransferError

    document = session.request("GET", "/session", f"cannot log in to {session.url}").json()
    user = document.get("user") if isinstance(document, dict) else None
    if not isinstance(user, str) or not user or "/" in user:
        raise TransferError(f"cannot log in to {session.url}: it does not answer like an AIStore")
    return user

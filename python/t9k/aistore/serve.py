"""`aistore serve`: binds, answers, stops in bounded time."""

from __future__ import annotations

import gc
import ipaddress
import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from t9k.aistore import logs
from t9k.aistore.accounts.users import add_key, add_user
from t9k.aistore.api.app import make_app
from t9k.aistore.db import Database, accounts
from t9k.aistore.http_protocol import LimitedProtocol
from t9k.aistore.services import open_services
from t9k.aistore.settings import Settings

GRACE_S = 20
"""What is in flight at SIGTERM has this long to finish."""

SETTINGS_VARIABLE = "_AISTORE_WORKER_SETTINGS"
"""How worker processes get their settings."""

MAX_CONNECTIONS = 2000

KEEP_ALIVE_S = 75
"""So long a connection may be idle."""


def serve(settings: Settings, ready_file: Path | None = None, user: str = "admin") -> None:
    """Serves until SIGTERM or SIGINT: what is in flight then finishes, and new requests are refused.

    Args:
        settings: Where the data is and what to listen on.
        ready_file: Gets a JSON object with ``url``, ``user`` and ``api_key``, atomically, when requests are answered.
        user: Name of the first user, who is made with a key if there is none yet.
    """
    if ready_file is not None:
        _prepare(ready_file)
    with _listen(settings) as listener:
        _serve_on(listener, settings, ready_file, user)


def _serve_on(listener: socket.socket, settings: Settings, ready_file: Path | None, user: str) -> None:
    services = open_services(settings)
    api_key = _first_key(services.database, user)
    services.close()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    if not _is_loopback(settings.host) and not settings.behind_proxy:
        print(
            f"warning: {settings.host} can be reached from other machines and this is plain HTTP: anyone between can "
            "read keys. Put a proxy with TLS in front and say --behind-proxy (docs/server.md), or listen on 127.0.0.1.",
            file=sys.stderr,
        )
    threading.Thread(target=_announce, args=(url, user, api_key, ready_file), daemon=True).start()
    os.environ[SETTINGS_VARIABLE] = settings.to_json()
    config = uvicorn.Config(
        "t9k.aistore.serve:worker_app",
        factory=True,
        workers=settings.workers,
        http=LimitedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.behind_proxy,
        forwarded_allow_ips="*" if settings.behind_proxy else None,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        limit_concurrency=MAX_CONNECTIONS,
        lifespan="on",
    )
    logs.configure(settings.log_level)
    if settings.workers == 1:
        uvicorn.Server(config).run(sockets=[listener])
        return
    # Where the counters of the workers meet.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = counters = tempfile.mkdtemp(prefix="aistore-metrics-")
    try:
        _Workers(config, [listener]).run()
    finally:
        shutil.rmtree(counters, ignore_errors=True)


class _Workers(Multiprocess):
    """Worker processes on one listener. It is closed as they end: who connects then must not wait for an answer."""

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def worker_app() -> FastAPI:
    """The app of one process, from the settings in the environment."""
    settings = Settings.from_json(os.environ[SETTINGS_VARIABLE])
    logs.configure(settings.log_level)
    app = make_app(open_services(settings))
    # What is there now stays: walking through it again and again would stop all requests for 30 to 60 ms each time.
    gc.collect()
    gc.freeze()
    return app


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise OSError(
            f"cannot listen on {settings.host} port {settings.port}: {reason}; "
            "is another server running? --port 0 takes any that is free"
        ) from None
    listener.set_inheritable(True)
    return listener


def _first_key(database: Database, user: str) -> str | None:
    """Makes the first user with a key of all scopes; None if there is a user already."""
    if database.read(accounts.any_user):
        return None
    add_user(database, user, "admin")
    return add_key(database, user, "first", ("read", "write", "admin")).text


def _announce(url: str, user: str, api_key: str | None, ready_file: Path | None) -> None:
    """Waits until requests are answered, then says how to use the server."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        try:
            with opener.open(f"{url}/readyz", timeout=5):
                break
        except OSError:
            time.sleep(0.02)
    print(f"AIStore is at {url}")
    if api_key:
        print(f"first user: {user}\nAPI key, shown only now: {api_key}\n")
        print(f"In a script:\n  from t9k import em\n  em.login({url!r}, {api_key!r})")
    sys.stdout.flush()
    if ready_file is not None:
        temporary = ready_file.with_name(f".{ready_file.name}.{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump({"url": url, "user": user, "api_key": api_key}, file)
        os.replace(temporary, ready_file)


def _prepare(ready_file: Path) -> None:
    """Removes what an earlier start has left; a file that cannot be written is an error before a key is made."""
    ready_file.unlink(missing_ok=True)
    if not os.access(ready_file.parent, os.W_OK | os.X_OK):
        raise OSError(f"cannot write the ready file {ready_file}: no directory that can be written to")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

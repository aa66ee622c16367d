"""`aistore serve`: binds, answers, stops in bounded time."""

from __future__ import annotations

import ipaddress
import json
import os
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path

import uvicorn

from t9k.aistore.accounts.users import add_key, add_user
from t9k.aistore.api.app import make_app
from t9k.aistore.db import Database, accounts
from t9k.aistore.services import open_services
from t9k.aistore.settings import Settings

GRACE_S = 20
"""What is in flight at SIGTERM has this long to finish."""


def serve(settings: Settings, ready_file: Path | None = None, user: str = "admin") -> None:
    """Serves until SIGTERM or SIGINT.

    Args:
        settings: Where the data is and what to listen on.
        ready_file: Gets a JSON object with ``url``, ``user`` and ``api_key``, atomically, when requests are answered.
        user: Name of the first user, who is made with a key if there is none yet.
    """
    listener = socket.create_server((settings.host, settings.port), backlog=1024)
    port = listener.getsockname()[1]
    services = open_services(settings)
    api_key = first_key(services.database, user)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"http://{host}:{port}"
    if not _is_loopback(settings.host):
        print(
            f"warning: {settings.host} can be reached from other machines and this is plain HTTP: anyone between can "
            "read keys. Put a proxy with TLS in front (docs/server.md), or listen on 127.0.0.1.",
            file=sys.stderr,
        )
    config = uvicorn.Config(
        make_app(services),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=64 << 10,
        lifespan="on",
    )
    ready = threading.Thread(target=_announce, args=(url, user, api_key, ready_file), daemon=True)
    ready.start()
    uvicorn.Server(config).run(sockets=[listener])


def first_key(database: Database, user: str) -> str | None:
    """Makes the first user with a key of all scopes; None if there is a user already."""
    if database.read(accounts.any_user):
        return None
    add_user(database, user, "admin")
    return add_key(database, user, "first", ("read", "write", "admin")).text


def _announce(url: str, user: str, api_key: str | None, ready_file: Path | None) -> None:
    """Waits until requests are answered, then says how to use the server."""
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
                if response.status == 200:
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

"""`aistore serve` as a process: what it prints, where its options come from, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner
from harness import Serving, run_server
from t9k.aistore.cli import main
from t9k.aistore.cli.serve import command as serve_command
from t9k.aistore.settings import Settings
from uploads import noise, pack_name, pack_of


@contextmanager
def started(*options: str, program: str = "") -> Iterator[subprocess.Popen[str]]:
    """A server process whose output can be read; killed if it still runs at the end."""
    start = ["-c", program] if program else ["-m", "t9k.aistore"]
    command = [sys.executable, *start, "serve", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_until(process: subprocess.Popen[str], mark: str) -> str:
    assert process.stdout is not None
    text = ""
    while mark not in text:
        line = process.stdout.readline()
        assert line, text
        text += line
    return text


def wait_for(path: Path) -> dict[str, Any]:
    """What the ready file says; it is read the moment that it is there."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            text = path.read_text()
        except FileNotFoundError:
            time.sleep(0.001)
            continue
        document: dict[str, Any] = json.loads(text)
        return document
    raise AssertionError("the server does not get ready")


def test_first_start_prints_the_key_once_and_lines_that_work(tmp_path: Path) -> None:
    options = ("--data", str(tmp_path / "data"), "--port", "0")
    with started(*options, "--user", "ada") as process:
        text = read_until(process, "em.login")
        lines = [line.strip() for line in text.splitlines()]
        assert "first user: ada" in lines
        script = "\n".join(lines[lines.index("In a script:") + 1 :])
        assert len(script.splitlines()) == 2
        home = {**os.environ, "T9K_CONFIG": str(tmp_path / "none")}
        subprocess.run([sys.executable, "-c", script], check=True, env=home)
    with started(*options) as process:
        text = read_until(process, "AIStore is at")
        process.send_signal(signal.SIGTERM)
        text += process.communicate()[0]
    assert "em_pat_" not in text


def test_ready_file_is_whole_private_and_of_this_start(tmp_path: Path) -> None:
    ready = tmp_path / "ready" / "file.json"
    ready.parent.mkdir()
    ready.write_text('{"url": "http://127.0.0.1:1", "user": "nobody", "api_key": null}')
    with started("--data", str(tmp_path / "data"), "--port", "0", "--ready-file", str(ready)) as process:
        while ready.exists() and json.loads(ready.read_text())["user"] == "nobody":
            assert process.poll() is None
            time.sleep(0.001)
        document = wait_for(ready)
        assert set(document) == {"url", "user", "api_key"}
        headers = {"Authorization": f"Bearer {document['api_key']}"}
        answer = requests.get(f"{document['url']}/api/v1/session", headers=headers, timeout=30)
        assert answer.json()["user"] == document["user"] == "admin"
        assert ready.stat().st_mode & 0o077 == 0
        assert list(ready.parent.iterdir()) == [ready]


def test_ready_file_that_cannot_be_written_is_an_error_before_anything_is_made(tmp_path: Path) -> None:
    data, ready = tmp_path / "data", tmp_path / "none" / "ready.json"
    result = CliRunner().invoke(main, ["serve", "--data", str(data), "--port", "0", "--ready-file", str(ready)])
    assert result.exit_code == 1
    assert str(ready) in result.output
    assert not data.exists()


def test_data_are_for_nobody_else_to_read_whatever_the_directory_lets(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    with run_server(data) as serving:
        headers = {"Authorization": f"Bearer {serving.api_key}"}
        pack = pack_of([noise(1, 1000)])
        url = f"{serving.url}/api/v1/packs/{pack_name(pack).hex()}"
        assert requests.put(url, data=pack, headers=headers, timeout=60).status_code == 201
        found = {path.name: path for path in data.iterdir()}
        assert {"aistore.sqlite3", "aistore.sqlite3-wal", "blobs"} <= set(found)
        assert {path.stat().st_mode & 0o077 for path in found.values()} == {0}


VALUES: dict[str, tuple[Any, Any, Any]] = {
    "host": ("::1", "127.0.0.2", "127.0.0.3"),
    "port": (1, 2, 3),
    "workers": (2, 3, 4),
    "packs_in_flight": (4, 5, 6),
    "trash_days": (0, 1, 2),
    "crashed_after": (60, 61, 62),
    "behind_proxy": (True, True, True),
    "cors_origins": (("https://a.example", "http://b.example:81"), ("https://c.example",), ("https://d.example",)),
    "log_level": ("info", "error", "debug"),
    "data": ("/a", "/b", "/c"),
    "database_url": ("postgresql://a", "postgresql://b", "postgresql://c"),
    "user": ("ada", "bob", "cyd"),
    "ready_file": ("/ready/a", "/ready/b", "/ready/c"),
}
"""Of each option of `serve`: what the file says, what the environment says, what the command line says."""

FIELDS = {"data": "data_dir", "crashed_after": "crashed_after_s"}


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server was started with, which is not started."""
    from t9k.aistore import serve

    seen: dict[str, Any] = {}

    def note(settings: Settings, ready_file: Path | None, user: str) -> None:
        seen.update({**vars(settings), "ready_file": ready_file, "user": user})

    monkeypatch.setattr(serve, "serve", note)
    for name in [name for name in os.environ if name.startswith("AISTORE_")]:
        monkeypatch.delenv(name)
    return seen


def test_every_option_has_values_here() -> None:
    assert {option.name for option in serve_command.params} == set(VALUES)


@pytest.mark.parametrize("name", VALUES)
def test_option_comes_from_file_environment_and_command_line(
    name: str, served: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file, in_environment, on_line = VALUES[name]
    file = tmp_path / "aistore.toml"
    file.write_text(f"[serve]\n{name} = {json.dumps(in_file)}\n")
    option = f"--{name.replace('_', '-')}"

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, ["--config", str(file), "serve", *words], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return str(served[FIELDS.get(name, name)])

    assert run() == str(in_file)
    words = list(in_environment) if isinstance(in_environment, tuple) else [str(in_environment)]
    monkeypatch.setenv(f"AISTORE_SERVE_{name.upper()}", " ".join(words))
    assert run() == str(in_environment)
    words = list(on_line) if isinstance(on_line, tuple) else [] if on_line is True else [str(on_line)]
    assert run(option, *words) == str(on_line)


@pytest.mark.parametrize("name", ["data", "database_url"])
def test_place_comes_from_file_environment_and_command_line(
    name: str, served: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file, in_environment, on_line = VALUES[name]
    file = tmp_path / "aistore.toml"
    file.write_text(f"{name} = {json.dumps(in_file)}\n")

    def run(*words: str) -> str:
        result = CliRunner().invoke(main, ["--config", str(file), *words, "serve"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return str(served[FIELDS.get(name, name)])

    assert run() == in_file
    monkeypatch.setenv(f"AISTORE_{name.upper()}", in_environment)
    assert run() == in_environment
    assert run(f"--{name.replace('_', '-')}", on_line) == on_line


@pytest.mark.parametrize(
    "text", ["[serve]\nprot = 1\n", "[sevre]\nport = 1\n", "prot = 1\n", "[serve\n", "serve = 1\n"]
)
def test_file_with_a_mistake_is_refused(text: str, served: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "aistore.toml"
    file.write_text(text)
    result = CliRunner().invoke(main, ["--config", str(file), "serve"])
    assert result.exit_code == 2
    assert str(file) in result.output
    assert not served


@pytest.mark.parametrize(
    ("options", "is_warned"),
    [(["--host", "0.0.0.0"], True), (["--host", "0.0.0.0", "--behind-proxy"], False), (["--host", "127.0.0.1"], False)],
)
def test_public_address_without_a_proxy_is_warned_of(tmp_path: Path, options: list[str], is_warned: bool) -> None:
    with started("--data", str(tmp_path / "data"), "--port", "0", *options) as process:
        read_until(process, "AIStore is at")
        process.send_signal(signal.SIGTERM)
        errors = process.communicate()[1]
    assert ("warning" in errors and "--behind-proxy" in errors and "TLS" in errors) == is_warned, errors


def half_sent(serving: Serving) -> tuple[socket.socket, bytes]:
    """A connection on which a pack was announced and half of it sent, and the other half."""
    pack = pack_of([noise(1, 100_000)])
    host, _, port = serving.url.removeprefix("http://").rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"PUT /api/v1/packs/{pack_name(pack).hex()} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(pack)}\r\n"
    connection.sendall(f"{head}Authorization: Bearer {serving.api_key}\r\n\r\n".encode() + pack[:50_000])
    return connection, pack[50_000:]


def answers(serving: Serving) -> bool:
    try:
        return requests.get(f"{serving.url}/healthz", timeout=5).ok
    except requests.ConnectionError:
        return False


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_finishes_what_is_in_flight_and_refuses_the_rest(tmp_path: Path, workers: str) -> None:
    with run_server(tmp_path / "served", None, "--workers", workers) as serving:
        connection, rest = half_sent(serving)
        time.sleep(0.3)
        serving.process.terminate()
        while answers(serving):
            time.sleep(0.05)
        connection.sendall(rest)
        answer = connection.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 201"), answer
        connection.close()
        # By the signal that it was sent, as uvicorn does: for systemd and shells that is a clean end.
        assert serving.process.wait(30) in (0, -signal.SIGTERM)


def test_sigterm_ends_the_process_in_bounded_time_whatever_is_in_flight(tmp_path: Path) -> None:
    """With a grace of two seconds: a request that never ends is cut off."""
    program = "from t9k.aistore import serve; serve.GRACE_S = 2; from t9k.aistore.cli import main; main()"
    ready = tmp_path / "ready.json"
    options = ("--data", str(tmp_path / "data"), "--port", "0", "--ready-file", str(ready))
    with started(*options, program=program) as process:
        document = wait_for(ready)
        serving = Serving(document["url"], "admin", document["api_key"], process, tmp_path)  # type: ignore[arg-type]
        connection, rest = half_sent(serving)
        stop = threading.Event()

        def dribble() -> None:
            for start in range(len(rest)):
                if stop.wait(0.05):
                    return
                try:
                    connection.sendall(rest[start : start + 1])
                except OSError:
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        process.wait(60)  # the whole pack would take an hour
        stop.set()
        thread.join()
        connection.close()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_counters_of_all_workers_are_one(tmp_path: Path, workers: str) -> None:
    """Each request is a connection of its own, and whichever process takes it answers for both."""
    with run_server(tmp_path / "served", None, "--workers", workers) as serving:
        for _ in range(30):
            assert requests.get(f"{serving.url}/healthz", timeout=60).status_code == 200
        for _ in range(5):
            counted = requests.get(f"{serving.url}/metrics", timeout=60).text
            assert 'aistore_requests_total{method="GET",route="/healthz",status="200"} 30.0' in counted


@pytest.mark.parametrize("is_kept", [False, True], ids=["first request", "kept connection"])
def test_request_that_came_while_the_server_stood_still_is_answered(tmp_path: Path, is_kept: bool) -> None:
    """All its timers are due then, before it has read what came in time."""
    program = (
        "from t9k.aistore import http_protocol, serve; http_protocol.HEAD_TIMEOUT_S = http_protocol.WATCH_EVERY_S = 1; "
        "serve.KEEP_ALIVE_S = 1; from t9k.aistore.cli import main; main()"
    )
    ready = tmp_path / "ready.json"
    request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    options = ("--data", str(tmp_path / "data"), "--port", "0", "--ready-file", str(ready))
    with started(*options, program=program) as process:
        host, _, port = wait_for(ready)["url"].removeprefix("http://").rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            if is_kept:
                connection.sendall(request)
                received = b""
                while not received.endswith(b"}"):
                    received += connection.recv(65536)
            time.sleep(0.2)  # it waits for more now
            process.send_signal(signal.SIGSTOP)
            time.sleep(4)
            connection.sendall(request)
            process.send_signal(signal.SIGCONT)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("level", ["info", "debug"])
def test_log_is_json_with_request_ids_and_without_secrets(tmp_path: Path, level: str) -> None:
    log = tmp_path / "log"
    with run_server(tmp_path / "served", None, "--log-level", level, log=log) as serving:
        headers = {"Authorization": f"Bearer {serving.api_key}", "X-Request-ID": "mine-1"}
        path = {"path": "/admin/secret-name"}
        assert requests.get(f"{serving.url}/api/v1/nodes", params=path, headers=headers, timeout=30).status_code == 404
        made = requests.post(f"{serving.url}/api/v1/folders", json=path, headers=headers, timeout=30)
        assert made.status_code == 201
        assert made.headers["X-Request-ID"] == "mine-1"
        requests.get(f"{serving.url}/api/v1/session", headers={"Authorization": "Bearer em_pat_wrong"}, timeout=30)
        counted = requests.get(f"{serving.url}/metrics", timeout=30).text
        for page in ("healthz", "readyz"):
            assert requests.get(f"{serving.url}/{page}", timeout=30).status_code == 200
    text = log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    mine = [line for line in lines if line.get("request_id") == "mine-1"]
    assert [(line["method"], line["route"], line["status"]) for line in mine] == [
        ("GET", "/nodes", 404),
        ("POST", "/folders", 201),
    ]
    assert 'aistore_requests_total{method="POST",route="/folders",status="201"} 1.0' in counted
    for secret in (serving.api_key, "em_pat_wrong", "secret-name", made.json()["id"]):
        assert secret not in text
        assert secret not in counted

"""`em login` and `em logout` on real files."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from t9k.config import Config
from t9k.em.config_file import log_in, log_out
from t9k.em.errors import AuthError, ConflictError, InvalidInputError, StoreError

EM = [sys.executable, "-m", "t9k.em"]
LOGIN = [*EM, "login", "--no-check"]
HOST = "https://example.com/t9k/aistore/server"
TEXT = """# made by hand
current-context: work   # of this cluster
contexts:
  - name: home
    server: https://home.example
    auth: {apikey: other}
  - name: work
    server: 'https://work.example'   # the old one
    prefixes:
      aistore: /t9k/aistore/server
      asset-hub: /t9k/asset-hub/server
    unknown: [1, 0x10]
    auth:
      # from the console
      apikey: old-key
      token: old-token
editor: vim
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = str(tmp_path / "t9k" / "config.yaml")
    monkeypatch.setenv("T9K_CONFIG", path)
    monkeypatch.delenv("EM_API_KEY", raising=False)
    return path


@pytest.fixture
def written(path: str) -> Path:
    file = Path(path)
    file.parent.mkdir()
    file.write_text(TEXT)
    return file


def test_login_makes_file_and_directory_for_the_owner_only(path: str) -> None:
    assert log_in(path, HOST, "key\n") == HOST
    assert os.stat(path).st_mode & 0o777 == 0o600
    assert os.stat(os.path.dirname(path)).st_mode & 0o777 == 0o700
    assert os.listdir(os.path.dirname(path)) == ["config.yaml"]
    config = Config()
    assert (config["aistore_host"], config["api_key"]) == (HOST, "key")


def test_login_changes_the_lines_of_the_key_only(written: Path, path: str) -> None:
    assert log_in(path, None, "new-key") == "https://work.example/t9k/aistore/server"
    assert written.read_text() == TEXT.replace("old-key", '"new-key"')


def test_login_to_another_host_keeps_what_is_not_ours(written: Path, path: str) -> None:
    written.chmod(0o644)
    log_in(path, "http://localhost:8080", "new-key")
    assert written.stat().st_mode & 0o777 == 0o600
    text = written.read_text()
    for kept in ("# made by hand", "# of this cluster", "# from the console", "[1, 0x10]", "editor: vim", "key: other"):
        assert kept in text
    assert dict(Config()) == {
        "aistore_host": "http://localhost:8080/",
        "asset_hub_host": "http://localhost:8080/t9k/asset-hub/server",
        "api_key": "new-key",
        "token": "old-token",
    }


def test_login_to_a_new_context_makes_it_current(written: Path, path: str) -> None:
    log_in(path, HOST, "third", context="third")
    assert Config()["api_key"] == "third"
    assert "apikey: old-key" in written.read_text()
    log_in(path, None, "again", context="work")
    assert Config()["token"] == "old-token"


def test_logout_removes_key_and_token_of_the_current_context(written: Path, path: str) -> None:
    assert log_out(path)
    assert (Config()["api_key"], Config()["token"]) == (None, None)
    assert written.read_text() == TEXT.replace(" old-key", "").replace(" old-token", "")
    assert not log_out(path)
    assert Config()["aistore_host"] == "https://work.example/t9k/aistore/server"


def test_logout_without_a_file_makes_none(path: str) -> None:
    assert not log_out(path)
    assert not os.path.exists(path)


def test_symbolic_link_is_kept(written: Path, path: str, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.yaml"
    written.rename(real)
    written.symlink_to(real)
    log_in(path, None, "new-key")
    assert written.is_symlink()
    assert "new-key" in real.read_text()


@pytest.mark.parametrize(
    "text", ["[", "- a\n", "contexts: 3\n", "contexts: [{name: a, auth: 1}]\ncurrent-context: a\n"]
)
def test_wrong_file_is_an_error_and_unchanged(written: Path, path: str, text: str) -> None:
    written.write_text(text)
    with pytest.raises(InvalidInputError, match=r"config\.yaml"):
        log_in(path, HOST, "key")
    assert written.read_text() == text
    assert os.listdir(written.parent) == ["config.yaml"]


def test_file_that_the_reader_refuses_is_an_error(written: Path, path: str) -> None:
    written.write_text("a: &a 1\nb: *a\n" + TEXT)
    with pytest.raises(InvalidInputError, match=r"no server is known|would not be read back"):
        log_in(path, HOST, "key")


@pytest.mark.parametrize(
    "host", ["example.com", "ftp://example.com", "https://", "https://u:p@example.com", "https://a b"]
)
def test_host_that_is_no_url_is_refused(path: str, host: str) -> None:
    with pytest.raises(InvalidInputError, match="not the URL"):
        log_in(path, host, "key")
    assert not os.path.exists(path)


def test_login_without_a_host_anywhere_says_what_to_do(path: str) -> None:
    with pytest.raises(InvalidInputError, match="em login --host URL"):
        log_in(path, None, "key")


@pytest.mark.parametrize("key", ["", " ", "a b", "a\nb", "ä", "x" * 5000])
def test_wrong_key_is_refused_without_being_shown(path: str, key: str) -> None:
    with pytest.raises(InvalidInputError) as info:
        log_in(path, HOST, key)
    assert not key.strip() or key not in str(info.value)


@settings(deadline=None)
@given(key=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=50))
def test_every_key_is_read_back_as_text(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    file = tmp_path_factory.mktemp("key") / "config.yaml"
    log_in(str(file), HOST, key)
    log_in(str(file), None, key)


def test_key_that_the_server_refuses_is_not_written(written: Path, path: str) -> None:
    def refuse(url: str, api_key: str) -> None:
        assert (url, api_key) == ("https://work.example/t9k/aistore/server", "wrong")
        raise AuthError("the server refused the API key")

    with pytest.raises(AuthError):
        log_in(path, None, "wrong", verify=refuse)
    assert written.read_text() == TEXT


def test_change_by_somebody_else_meanwhile_is_a_conflict(written: Path, path: str) -> None:
    with pytest.raises(ConflictError):
        log_in(path, None, "key", verify=lambda *_: written.write_text("mine: 1\n"))
    assert written.read_text() == "mine: 1\n"
    assert os.listdir(written.parent) == ["config.yaml"]


def test_file_that_cannot_be_made_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        log_in(str(tmp_path / "file" / "config.yaml"), HOST, "key")


def test_command_reads_key_from_stdin_and_environment(path: str) -> None:
    done = subprocess.run(
        [*LOGIN, "--host", HOST, "--api-key-stdin"],
        input="k-stdin\n",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"Logged in to {HOST}; the API key is in {path}\n"
    assert Config()["api_key"] == "k-stdin"
    environment = os.environ | {"EM_API_KEY": "k-environment"}
    subprocess.run([*LOGIN], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert Config()["api_key"] == "k-environment"
    done = subprocess.run([*LOGIN], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--api-key-stdin" in done.stderr
    assert (
        subprocess.run([*EM, "logout"], capture_output=True, text=True, check=True).stdout == f"Logged out in {path}\n"
    )
    assert Config()["api_key"] is None


@pytest.mark.parametrize(("typed", "code"), [(b"k-typed\n", 0), (b"\x03", 130)])
def test_prompt_does_not_show_the_key(path: str, typed: bytes, code: int) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(EM[0], [*LOGIN, "--host", HOST])
    # With the echo, what was typed before is thrown away; until the command has begun, the terminal is not its own.
    while termios.tcgetattr(terminal)[3] & termios.ECHO:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        time.sleep(0.01)
    shown = b""
    while b"API key: " not in shown:
        shown += os.read(terminal, 1024)
    os.write(terminal, typed)
    with contextlib.suppress(OSError):  # how Linux says that the other side is closed
        while block := os.read(terminal, 1024):
            shown += block
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == code
    assert b"k-typed" not in shown
    assert b"Traceback" not in shown
    assert Config()["api_key"] == ("k-typed" if code == 0 else None)

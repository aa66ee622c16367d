"""`aistore users|keys|groups` on a data directory and on a database's URL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from t9k.aistore.accounts.caller import authenticate
from t9k.aistore.cli import VERBS, main
from t9k.aistore.db import Database
from t9k.aistore.errors import Refusal
from t9k.aistore.settings import Settings


class Cli:
    """The command on one server's data."""

    def __init__(self, data: Path, database_url: str | None) -> None:
        self.place = ["--data", str(data), *(["--database-url", database_url] if database_url else [])]
        self.url = Settings(data_dir=data, database_url=database_url).url_of_database

    def run(self, *words: str, code: int = 0, **arguments: Any) -> Result:
        result = CliRunner().invoke(main, [*self.place, *words], **arguments)
        assert result.exit_code == code, result.output
        return result

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    def is_good(self, key: str) -> bool:
        database = Database(self.url)
        try:
            authenticate(database, key)
        except Refusal:
            return False
        finally:
            database.close()
        return True


@pytest.fixture
def cli(tmp_path: Path, database_url: str | None) -> Cli:
    """A server that was never started, and has its tables."""
    cli = Cli(tmp_path / "data", database_url)
    cli.run("migrate")
    return cli


def test_users_are_added_listed_disabled_and_enabled(cli: Cli) -> None:
    key = cli.json("users", "add", "ada", "--role", "admin", "--key")[0]["api_key"]
    assert "added user bob" in cli.run("users", "add", "bob").output
    assert [(user["name"], user["role"]) for user in cli.json("users", "list")] == [("ada", "admin"), ("bob", "user")]
    assert "there is a user" in cli.run("users", "add", "bob", code=1).output
    assert "only administrator" in cli.run("users", "revoke", "ada", code=1).output
    cli.run("users", "role", "bob", "admin")
    assert cli.is_good(key)
    cli.run("users", "revoke", "ada")
    assert not cli.is_good(key)
    assert cli.json("users", "list")[0]["disabled"]
    cli.run("users", "enable", "ada")
    assert cli.is_good(key)
    cli.run("users", "password", "ada", input="long enough\nlong enough\n")
    cli.run("users", "domain", "ada", "team")
    assert [user["domain"] for user in cli.json("users", "list")] == ["team", ""]
    cli.run("users", "domain", "ada")
    assert cli.json("users", "list")[0]["domain"] == ""
    assert "cannot name a domain" in cli.run("users", "domain", "ada", "a:b", code=1).output


def test_keys_are_added_listed_and_revoked(cli: Cli) -> None:
    cli.run("users", "add", "ada")
    key = cli.run("keys", "add", "ada", "laptop", "--scope", "read", "--days", "3").stdout.strip()
    assert cli.is_good(key)
    table = cli.run("keys", "list", "ada").stdout
    assert key[:17] in table
    assert key not in table
    cli.run("keys", "revoke", key[:17])
    assert not cli.is_good(key)
    cli.run("keys", "revoke", key[:17], code=1)
    cli.run("keys", "add", "nobody", "x", code=1)
    cli.run("keys", "add", "ada", "x", "--scope", "admin", code=1)


def test_groups_are_added_listed_and_revoked(cli: Cli) -> None:
    for user in ("ada", "bob"):
        cli.run("users", "add", user)
    cli.run("groups", "add", "vision", "ada")
    cli.run("groups", "add", "vision", "bob")
    cli.run("groups", "add", "vision", code=1)
    cli.run("groups", "add", "vision", "nobody", code=1)
    assert cli.json("groups", "list")[0]["members"] == ["ada", "bob"]
    cli.run("groups", "revoke", "vision", "ada")
    assert cli.json("groups", "list")[0]["members"] == ["bob"]
    cli.run("groups", "revoke", "vision")
    assert cli.json("groups", "list") == []


OFFLINE = [("users", "list"), ("users", "add", "ada"), ("keys", "list"), ("groups", "list"), ("check",), ("gc",)]


@pytest.mark.parametrize("words", OFFLINE, ids=" ".join)
def test_place_without_a_server_is_told_so_and_stays_empty(
    tmp_path: Path, database_url: str | None, words: tuple[str, ...]
) -> None:
    """Else an administrator under another name makes keys that work nowhere."""
    cli = Cli(tmp_path / "data", database_url)
    for _ in range(2):
        output = cli.run(*words, code=1).output
        assert "there are no data of a server" in output
        assert "--data" in output
    if database_url is None:
        assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://ada:secret@127.0.0.1:1/x", "cannot use the database: connection failed"),
        ("mysql://ada:secret@127.0.0.1/x", "'mysql'"),
        ("ada:secret@127.0.0.1/x", "no URL"),
        ("postgresql://ada:secret@127.0.0.1:port/x", "no URL"),
    ],
)
@pytest.mark.parametrize("words", [("users", "list"), ("migrate",), ("serve", "--port", "0")], ids=" ".join)
def test_database_that_cannot_be_used_is_one_line_without_the_password(
    tmp_path: Path, url: str, says: str, words: tuple[str, ...]
) -> None:
    output = Cli(tmp_path / "data", url).run(*words, code=1).output
    assert says in output
    assert len(output.splitlines()) == 1
    assert "secret" not in output


@pytest.mark.parametrize("verb", ["users", "keys", "groups"])
def test_help_of_every_command_has_an_example(verb: str) -> None:
    assert verb in VERBS
    commands = main.get_command(None, verb).commands  # type: ignore[arg-type, union-attr]
    assert {"add", "list", "revoke"} <= set(commands)
    for name in commands:
        assert f"Example: aistore {verb} {name}" in CliRunner().invoke(main, [verb, name, "--help"]).output

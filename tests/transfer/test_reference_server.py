"""What the API reference and the manual say of the server, one test each; tests/em/test_reference.py has the rest.

A docstring says in our words what is promised there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Serving
from t9k import CONFIG, em
from t9k.em.client import connection, nodes
from t9k.em.errors import AuthError

STRATEGIES = ("skip", "error", "new", "replace")


@pytest.fixture(autouse=True)
def logged_in(home: Path, server: Serving) -> Path:
    em.login(server.url, server.api_key)
    return home


def make_run(name: str = "trained") -> em.Run:
    run = em.create_run(name=name, hparams={"lr": 0.1})
    run.log("train", {"loss": 0.5}, step=1)
    run.finish()
    return run


def make_artifact(name: str = "weights", content: bytes = b"weights") -> em.Artifact:
    Path("weights.bin").write_bytes(content)
    artifact = em.create_artifact(name=name)
    artifact.add_file("weights.bin")
    return artifact


MADE: dict[str, Callable[[], em.Run | em.Artifact]] = {"Run": make_run, "Artifact": make_artifact}


def sent_to(one: em.Run | em.Artifact) -> str:
    """Where its last upload has put it."""
    return one.remote[-1]["path"]


@pytest.fixture
def move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Goes to another, empty directory, as on another machine."""

    def go() -> None:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")

    return go


def node_at(path: str) -> str | None:
    """Which node there is."""
    found = nodes.find(connection.connected(), path)
    return found.id if found else None


# upload of Run and Artifact, and em.upload


@pytest.mark.parametrize("kind", MADE)
def test_upload_goes_to_the_folder_default(kind: str, server: Serving) -> None:
    """Without arguments a Run or an Artifact goes to the user's Folder `default`, which is there."""
    one = MADE[kind]()
    one.upload()
    assert sent_to(one).startswith(f"/{server.user}/default/")
    assert node_at(sent_to(one))


@pytest.mark.parametrize("kind", MADE)
def test_upload_takes_relative_and_absolute_folders(kind: str, folder: str, server: Serving) -> None:
    """A folder that does not start with a slash is below the current user's."""
    one = MADE[kind]()
    one.upload(folder=folder, make_folder=True)
    assert sent_to(one) == f"/{server.user}/{folder}/{one.name}"
    other = MADE[kind]()
    other.upload(folder=f"/{server.user}/{folder}")
    assert sent_to(other) == f"/{server.user}/{folder}/{other.alternative_name}"


@pytest.mark.parametrize("kind", MADE)
def test_upload_makes_folders_only_if_asked(kind: str, folder: str, server: Serving) -> None:
    """`make_folder` makes the Folder and its parents; without it a missing one is an error, and nothing is made."""
    one = MADE[kind]()
    with pytest.raises(RuntimeError, match=folder):
        one.upload(folder=f"{folder}/a/b")
    assert not node_at(f"/{server.user}/{folder}")
    one.upload(folder=f"{folder}/a/b", make_folder=True)
    assert sent_to(one) == f"/{server.user}/{folder}/a/b/{one.name}"


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", MADE)
def test_upload_meets_a_taken_name_with_each_strategy(kind: str, strategy: str, folder: str, server: Serving) -> None:
    """`skip` skips, `error` errors out, `new` takes the alternative name, `replace` deletes what is there."""
    first, second = MADE[kind](), MADE[kind]()
    first.upload(folder, make_folder=True)
    taken = f"/{server.user}/{folder}/{first.name}"
    before = node_at(taken)
    assert before is not None
    if strategy == "error":
        with pytest.raises(RuntimeError, match="is there already"):
            second.upload(folder, conflict_strategy=strategy)
    else:
        second.upload(folder, conflict_strategy=strategy)
    after = node_at(taken)
    assert after is not None
    assert (after != before) == (strategy == "replace")
    there = {"new": f"{taken.rpartition('/')[0]}/{second.alternative_name}", "replace": taken}
    assert [line["path"] for line in second.remote] == ([there[strategy]] if strategy in there else [])


@pytest.mark.parametrize("kind", MADE)
def test_upload_refuses_another_strategy(kind: str) -> None:
    """The strategy must be one of the four."""
    with pytest.raises(ValueError, match="overwrite"):
        MADE[kind]().upload(conflict_strategy="overwrite")


def test_upload_of_a_run_takes_its_artifacts_and_associations(
    folder: str, server: Serving, move: Callable[[], None]
) -> None:
    """Input and output Artifacts go up if they have not, and the associations do."""
    data, model = make_artifact("data", b"data"), make_artifact("model", b"model")
    data.upload(folder, make_folder=True)
    run = em.create_run(name="marked")
    run.mark_input(data)
    run.mark_output(model)
    run.finish()
    run.upload(folder)
    histories = [em.load_artifact(artifact.local).remote for artifact in (data, model)]
    assert [len(history) for history in histories] == [1, 1]  # data was there, and was not sent again
    move()
    marks = em.load_run(sent_to(run)).associations
    assert [mark["path"] for mark in marks["inputs"]] == [f"/{server.user}/{folder}/data"]
    assert [mark["path"] for mark in marks["outputs"]] == [f"/{server.user}/{folder}/model"]


@pytest.mark.parametrize("kind", MADE)
def test_em_upload_of_one_and_of_all(kind: str, folder: str, server: Serving) -> None:
    """`em.upload` takes a local directory, or a parent directory of several."""
    first, second = MADE[kind](), MADE[kind]()
    em.upload(path=first.local, folder=folder, make_folder=True)
    assert node_at(f"/{server.user}/{folder}/{first.name}")
    em.upload(path=str(Path(first.local).parent), folder=f"{folder}/all", make_folder=True, conflict_strategy="new")
    load = em.load_run if kind == "Run" else em.load_artifact
    assert {sent_to(load(one.local)).rpartition("/")[0] for one in (first, second)} == {f"/{server.user}/{folder}/all"}
    assert sent_to(load(first.local)) != sent_to(load(second.local))


# load_run and load_artifact


@pytest.mark.parametrize("kind", MADE)
def test_load_looks_here_first_and_then_there(
    kind: str, folder: str, server: Serving, move: Callable[[], None]
) -> None:
    """A local directory is searched first, then the server; a relative path there is below the current user's."""
    one = MADE[kind]()
    one.upload(folder, make_folder=True)
    move()
    load = em.load_run if kind == "Run" else em.load_artifact
    remote = f"{folder}/{one.name}"
    there = load(path=remote)
    assert there.remote[-1]["action"] == "download"
    assert load(path=f"/{server.user}/{remote}").alternative_name == one.alternative_name
    Path(folder).mkdir()
    Path(one.local).rename(remote)  # a directory of the same relative path
    assert load(path=remote).local == str(Path(remote).absolute())
    with pytest.raises(RuntimeError, match="nowhere"):
        load(path=f"{folder}/nowhere")


# auto_upload


def test_auto_upload_goes_where_the_config_file_says(folder: str, server: Serving) -> None:
    """auto_upload, folder, make_folder and conflict_strategy of the config file win over the arguments."""
    Path("run_config.yaml").write_text(
        f"name: auto\nauto_upload: true\nfolder: {folder}/made\nmake_folder: true\nconflict_strategy: error\n"
    )
    arguments = {"name": "ignored", "auto_upload": False, "folder": "default", "conflict_strategy": "new"}
    run = em.create_run(config_path="./run_config.yaml", **arguments)  # type: ignore[arg-type]
    run.log("train", {"loss": 0.5}, step=1)
    run.finish()
    assert sent_to(run) == f"/{server.user}/{folder}/made/auto"
    Path("run_config.yaml").write_text("auto_upload: false\n")
    here = em.create_run(config_path="./run_config.yaml", auto_upload=True)
    here.finish()
    assert here.remote == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_auto_upload_meets_a_taken_name_with_each_strategy(
    strategy: str, folder: str, server: Serving, capfd: pytest.CaptureFixture[str]
) -> None:
    """As `upload` does; but an error does not reach the script: the end of the run tells of it."""
    make_run("auto").upload(folder, make_folder=True)
    taken = f"/{server.user}/{folder}/auto"
    before = node_at(taken)
    run = em.create_run(name="auto", auto_upload=True, folder=folder, conflict_strategy=strategy)
    run.log("train", {"loss": 0.5}, step=1)
    run.finish()
    after = node_at(taken)
    assert before is not None
    assert after is not None
    assert (after != before) == (strategy == "replace")
    there = {"new": f"{taken.rpartition('/')[0]}/{run.alternative_name}", "replace": taken}
    assert [line["path"] for line in run.remote] == ([there[strategy]] if strategy in there else [])
    assert ("is there already" in capfd.readouterr().err) == (strategy == "error")


def test_load_run_with_auto_upload_continues_a_local_run(folder: str, server: Serving) -> None:
    """`load_run` takes the same arguments, and what it continues goes up."""
    run = em.load_run(path=make_run().local, auto_upload=True, folder=folder, make_folder=True)
    run.log("train", {"loss": 0.4}, step=2)
    run.finish()
    assert sent_to(run) == f"/{server.user}/{folder}/trained"
    assert len(em.load_run(run.local).metrics["train"]) == 2


def test_auto_upload_needs_a_login_first() -> None:
    """Without `em.login()` before it, `auto_upload=True` is an error."""
    em.logout()
    with pytest.raises(AuthError, match="not logged in"):
        em.create_run(auto_upload=True)


# login, logout and the configuration


def test_login_defaults_to_the_configuration(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """ais_host and api_key default to t9k.CONFIG's, also after an assignment or update in memory."""
    em.logout()
    monkeypatch.setitem(CONFIG, "aistore_host", "http://127.0.0.1:9")
    CONFIG.update({"aistore_host": server.url})
    CONFIG["api_key"] = server.api_key
    em.login()
    assert connection.connected().user == server.user


def test_logout_unsets_the_client_until_the_next_login(server: Serving) -> None:
    """After `logout` nothing corresponds with the server, until it is set up again."""
    artifact = make_artifact()
    em.logout()
    with pytest.raises(AuthError, match="not logged in"):
        artifact.upload()
    em.login(ais_host=server.url, api_key=server.api_key, timeout=30)
    artifact.upload()


def test_command_line_lists_and_uploads(folder: str, server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """`em` logs in and out, lists local Runs and Artifacts, and uploads them."""
    run, artifact = make_run(), make_artifact()
    command = [sys.executable, "-m", "t9k.em"]

    def em_command(*words: str, typed: str = "") -> str:
        done = subprocess.run([*command, *words], input=typed, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    em_command("login", "--host", server.url, "--api-key-stdin", typed=server.api_key)
    assert run.alternative_name in em_command("runs", "--json")
    assert artifact.alternative_name in em_command("ls", "--json")
    for local in (run.local, artifact.local):
        em_command("upload", local, "--folder", folder, "--make-folder")
    assert node_at(f"/{server.user}/{folder}/{run.name}")
    assert node_at(f"/{server.user}/{folder}/{artifact.name}")
    em_command("logout")
    done = subprocess.run([*command, "upload", run.local], capture_output=True, text=True, timeout=120)
    assert (done.returncode, "not logged in" in done.stderr) == (1, True)
    assert "Usage" in em_command("upload", "--help")

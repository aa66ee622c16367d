"""The command line as a process: imports, pipes, signals, terminals and colours."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from t9k import em
from t9k.em.cli.group import MODULES, SECTIONS
from t9k.em.cli.verb import Verb

EM = [sys.executable, "-m", "t9k.em"]
VERBS = {verb: line for verbs in SECTIONS.values() for verb, line in verbs.items()}


pytestmark = pytest.mark.usefixtures("directory")


def em_output(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EM, *args], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload]


def on_terminal(*args: str, **environment: str) -> str:
    """What the command writes to a terminal."""
    main, side = pty.openpty()
    with subprocess.Popen([*EM, *args], stdout=side, stderr=side, env=os.environ | environment) as process:
        os.close(side)
        shown = b""
        try:
            while block := os.read(main, 1 << 16):
                shown += block
        except OSError:  # how Linux says that the other side is closed
            pass
        process.wait(60)
    os.close(main)
    return shown.decode()


def test_help_shows_every_verb_and_imports_none() -> None:
    done = em_output("--help", env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    for verb, line in VERBS.items():
        assert f"  {verb} " in done.stdout
        assert line in done.stdout
        assert f"t9k.em.cli.{MODULES.get(verb, verb)}\n" not in done.stderr
    assert "Exit codes: 0 success" in done.stdout
    for module in ("yaml", "requests", "numpy", "tqdm", "json.decoder"):
        assert f" {module}\n" not in done.stderr


def modules(*command: str) -> set[str]:
    """What a process imports."""
    profile = subprocess.run(["env", "PYTHONPROFILEIMPORTTIME=1", *command], check=True, capture_output=True, text=True)
    return {line.rpartition("|")[2].strip() for line in profile.stderr.splitlines()}


def test_help_imports_few_modules_besides_click() -> None:
    """They are counted, because the machine decides the time; `--help` needs 66, most of them click's."""
    needed = modules(*EM, "--help") - modules(sys.executable, "-c", "import runpy")
    assert "t9k.em.cli.group" in needed
    assert len(needed) < 90, sorted(needed)


@pytest.mark.parametrize("verb", VERBS)
def test_verb_has_help_examples_and_exit_codes(verb: str) -> None:
    command = importlib.import_module(f"t9k.em.cli.{MODULES.get(verb, verb)}").command
    assert isinstance(command, Verb)
    assert command.name == verb
    assert command.help
    assert len(VERBS[verb]) < 60
    assert all(example.startswith(f"em {verb}") for example in command.examples)
    done = em_output(verb, "--help")
    assert all(f"\n  {example}\n" in done.stdout for example in command.examples)
    assert "Exit codes: 0 " in done.stdout


def test_verbs_of_the_store_print_json_and_exit_as_documented(directory: Path) -> None:
    """On pipes JSON is all there is; problems and errors exit with 1, wrong calls with 2, and say so on stderr."""
    (directory / "a").mkdir()
    (directory / "a" / "1").write_text("one")
    added = em_output("add", "a", "--name", "x", "--json")
    local = json.loads(added.stdout)["metadata"]["local"]
    calls = [("ls",), ("ls", local), ("show", local), ("verify",), ("verify", local), ("du",), ("diff", local, local)]
    for call in [*calls, ("hash", "a"), ("gc", "--dry-run"), ("gc",)]:
        done = em_output(*call, "--json")
        assert (done.returncode, done.stderr) == (0, ""), call
        json.loads(done.stdout)
    for verb in ("add", "ls", "show", "verify", "du", "diff", "hash", "gc"):
        done = em_output(verb, "--no-such-option")
        assert (done.returncode, done.stdout) == (2, "")
        assert "No such option" in done.stderr
    assert em_output("add", "nowhere").returncode == em_output("hash", "nowhere").returncode == 2
    for call in [("ls", "nowhere"), ("show", "nowhere"), ("verify", "nowhere"), ("diff", local, "nowhere")]:
        done = em_output(*call, "--json")
        assert (done.returncode, done.stdout) == (1, ""), call
        assert done.stderr.startswith("Error: ")
        assert done.stderr.count("\n") <= 2, "the error, and perhaps what to do"
    (stored,) = (path for path in (directory / ".em/store/objects").rglob("*") if path.is_file())
    stored.chmod(0o644)
    stored.write_text("two")
    done = em_output("verify", "--json")
    assert done.returncode == 1
    assert [problem["kind"] for problem in json.loads(done.stdout)["problems"]] == ["damaged"]


def test_verbs_that_look_into_a_store_make_none(directory: Path) -> None:
    for call in [("verify",), ("verify", "--store"), ("du",), ("gc",), ("gc", "--dry-run"), ("diff", "a", "b")]:
        done = em_output(*call)
        assert (done.returncode, done.stdout) == (1, ""), call
        hint = "(hint: go to the directory of .em, or set EM_STORE_DIR)"
        assert done.stderr == f"Error: there is no store .em/store {hint}\n"
    assert list(directory.iterdir()) == []


def test_closed_outputs_are_no_traceback(directory: Path) -> None:
    """As of a daemon that has closed them."""
    (directory / "file").write_text("one")
    for call, redirection, code in [("hash file", ">&-", 0), ("hash nowhere", ">&- 2>&-", 2), ("ls nowhere", ">&-", 1)]:
        command = f"{shlex.join(EM)} {call} {redirection}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
        assert done.returncode == code
        assert "Traceback" not in done.stderr


def test_version_is_that_of_the_package() -> None:
    assert em_output("--version").stdout == f"t9k {importlib.metadata.version('t9k')}\n"


def test_unknown_verb_exits_2() -> None:
    done = em_output("shwo")
    assert done.returncode == 2
    assert "No such command 'shwo'; did you mean 'show'?" in done.stderr
    assert "No such command 'xyzzy'.\n" in em_output("xyzzy").stderr


def test_closed_pipe_is_no_traceback(directory: Path) -> None:
    for index in range(2000):
        (directory / f"{index}.{'x' * 100}").touch()
    with subprocess.Popen([*EM, "hash", "."], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_interrupt_exits_130_without_a_traceback(
    directory: Path, interrupt: Callable[[subprocess.Popen[bytes]], tuple[int, bytes]]
) -> None:
    with open("large", "wb") as file:
        file.truncate(1 << 40)
    with subprocess.Popen([*EM, "hash", "large"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        opened = Path(f"/proc/{process.pid}/fd")
        for _ in range(1000):
            if any(os.path.realpath(link).endswith("/large") for link in opened.iterdir()):
                break
            time.sleep(0.01)
        assert interrupt(process) == (130, b"\nInterrupted\n")


def test_verbose_add_tells_how_the_files_came_there(directory: Path) -> None:
    Path("file").write_text("text")
    done = em_output("add", "-v", "file", env=os.environ | {"EM_LINK_MODE": "hardlink"})
    assert (done.returncode, done.stderr) == (
        0,
        f"{done.stdout.strip()}: 0 files reflinked, 1 hardlinked, 0 copied (0 B)\n",
    )


def test_interrupted_add_makes_no_artifact(directory: Path) -> None:
    Path("small").mkdir()
    Path("small/file").write_text("one")
    with Path("long").open("wb") as file:
        file.truncate(64 << 30)  # costs no disk, and takes long to read
    with subprocess.Popen(
        [*EM, "add", "small", "long"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as adding:
        while not list(Path(".em/artifacts").glob("*/small/file")) or not list(
            Path(".em/store/objects").glob("??/.tmp-*")
        ):
            assert adding.poll() is None
            time.sleep(0.01)
        adding.send_signal(signal.SIGINT)
        out, err = adding.communicate()
    assert (adding.returncode, out) == (130, "")
    assert "Interrupted; no artifact was made" in err
    assert "Traceback" not in err
    assert list(Path(".em/artifacts").iterdir()) == []
    assert list(Path(".em/store/objects").glob("??/.tmp-*")) == list(Path(".em/store/leases").iterdir()) == []


def test_colour_is_for_terminals_and_off_by_no_color() -> None:
    em.create_artifact("x")
    assert "\x1b[" in on_terminal("du")
    assert "\x1b[" not in on_terminal("du", NO_COLOR="1")
    assert "\x1b[" not in on_terminal("du", TERM="dumb")
    assert "\x1b[" not in em_output("du").stdout


def test_control_characters_of_names_are_escaped(directory: Path) -> None:
    (directory / "a").mkdir()
    name = "\x1b[31m red\n\u202ereversed"
    (directory / "a" / name).touch()
    artifact = em.create_artifact("x")
    artifact.add_dir("a")
    for shown in (em_output("ls", artifact.local).stdout, on_terminal("ls", artifact.local), on_terminal("hash", "a")):
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "\\x1b[31m red\\n\\u202ereversed" in shown


def test_hash_of_names_with_escapes_is_that_of_b3sum(directory: Path) -> None:
    (directory / "back\\slash\nnewline").touch()
    digest = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    assert em_output("hash", "back\\slash\nnewline").stdout == f"\\{digest}  back\\\\slash\\nnewline\n"
    (directory / os.fsdecode(b"not-utf8-\xff")).touch()
    assert "not-utf8-\\udcff" in em_output("hash", ".").stdout
    assert em_output("hash", ".", env=os.environ | {"PYTHONIOENCODING": "ascii"}).returncode == 0


def test_tables_are_clipped_to_terminals_and_whole_elsewhere(directory: Path) -> None:
    for index in range(55):
        folder = directory / ".em" / "runs" / f"many_261125_0000{index:02}_aaaaaa"
        folder.mkdir(parents=True)
        (folder / "metadata.yaml").write_text(f"name: many\nlabels: ['{'l' * 80}']\nstatus: Complete\n")
    shown = on_terminal("runs", COLUMNS="60", NO_COLOR="1").splitlines()
    assert len(shown) == 1 + 50 + 1
    assert max(map(len, shown)) <= 60
    assert shown[-1] == "5 older: -n shows more"
    assert shown[1].startswith("many_261125_000054_aaaaaa")
    assert shown[0].split() == ["name", "state", "duration", "last", "metrics"]
    assert "started" in on_terminal("runs", COLUMNS="120", NO_COLOR="1").splitlines()[0]
    assert len(em_output("runs").stdout.splitlines()) == 56
    assert em_output("runs", "-n", "2").stderr == "53 older: -n shows more\n"


def test_interrupt_while_modules_are_imported_exits_130(directory: Path) -> None:
    (directory / "click.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    path = f"{directory}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    done = em_output("runs", env=os.environ | {"PYTHONPATH": path})
    assert (done.returncode, done.stderr) == (130, "")


def test_comparison_that_is_too_wide_for_the_terminal_numbers_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_SYSTEM_METRICS", "0")
    for index in range(3):
        em.create_run(name=f"run{index}", hparams={"lr": index, "note": f"{index}" * 200}).finish()
    shown = on_terminal("compare", "run0", "run1", "run2", COLUMNS="70", NO_COLOR="1").splitlines()
    assert [line.split()[0] for line in shown[:3]] == ["1", "2", "3"]
    assert shown[4].split() == ["1", "2", "3"]
    assert next(line.split()[1:] for line in shown if "hparams.lr" in line) == ["0", "1", "2"]
    assert max(map(len, shown)) <= 70
    assert "2" * 200 in em_output("compare", "run0", "run1", "run2").stdout

"""Names that are hard or hostile. Each is stored as it is, or refused with nothing changed."""

import contextlib
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from pathlib import Path

import oracle
import pytest
from t9k import em
from t9k.em import _engine
from t9k.em.errors import ConflictError, InvalidInputError, NotFoundError, StoreError

from .conftest import POINTS, contents, leftovers, problems, traced, tree


@pytest.fixture
def artifact() -> em.Artifact:
    Path("a").mkdir()
    Path("a/1").write_text("one")
    artifact = em.create_artifact("x")
    artifact.add_file("a/1", "there/file")
    return artifact


def unchanged(artifact: em.Artifact) -> None:
    assert contents(artifact) == {"there/file": b"one"}
    assert problems(artifact) == problems() == leftovers(artifact) == []
    assert [path.name for path in Path().iterdir() if path.name not in ("a", "cache", ".em", "outside")] == []


BAD = ["..", "../x", "a/../x", "a/..", "/x", "//x", "./x", "a//x", "a/./x", "a\0x", "a/" + "n" * 256, "n" * 256]
BAD += ["a/" * 2048 + "x", ".artifact", ".artifact/x", ".ARTIFACT/x", "there/file/x", "there", "THERE/file", "There/x"]


@pytest.mark.parametrize("path", BAD, ids=lambda path: ascii(path[:20]))
def test_bad_paths_are_refused(artifact: em.Artifact, path: str) -> None:
    with pytest.raises(InvalidInputError):
        artifact.add_file("a/1", path)
    with pytest.raises(InvalidInputError):
        artifact.add_reference("s3://bucket/x", path)
    if path != "there":  # a directory may be added to a directory
        with pytest.raises(InvalidInputError):
            artifact.add_dir("a", path)
    unchanged(artifact)


GOOD = [
    "n" * 255,
    "é" * 127,
    "new\nline",
    "back\\slash",
    "..\\x",
    "...",
    "-rf",
    " ",
    "a b",
    "\x01\x1b[31m",
    "\U0001f600",
]
GOOD += ["\u202etxt", "~", "*?", "CON", "nul.txt", "com1", ".hidden", ".artifacts", "x/.artifact", "'\"", "%2e%2e"]


@pytest.mark.parametrize("name", GOOD, ids=lambda name: ascii(name[:20]))
def test_odd_names_are_kept(artifact: em.Artifact, name: str) -> None:
    Path("b", name).parent.mkdir(parents=True)
    Path("b", name).write_text("odd")
    artifact.add_dir("b")
    artifact.add_file("a/1", name)
    expected = {f"b/{name}": b"odd", name: b"one", "there/file": b"one"}
    assert contents(artifact) == contents(em.load_artifact(artifact.local)) == expected
    assert problems(artifact) == leftovers(artifact) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("README", "readme"),
        ("dir/x", "DIR/y"),
        ("é", unicodedata.normalize("NFD", "é")),
        ("É", unicodedata.normalize("NFD", "é")),
        ("ﬀ/ΑΣ", "ﬀ/ας"),
    ],
)
def test_names_that_collide_elsewhere_are_refused(artifact: em.Artifact, one: str, other: str) -> None:
    for name in (one, other):
        Path("outside", name).parent.mkdir(parents=True, exist_ok=True)
        Path("outside", name).write_text(name)
    with pytest.raises(InvalidInputError):
        artifact.add_dir("outside")
    unchanged(artifact)
    artifact.add_file("a/1", one)
    with pytest.raises(InvalidInputError):
        artifact.add_file("a/1", other)
    assert contents(artifact) == {"there/file": b"one", one: b"one"}


def test_names_that_are_not_utf8_are_refused(artifact: em.Artifact) -> None:
    os.mkdir("outside")
    Path(os.fsdecode(b"outside/\xff")).write_text("x")
    for add in (lambda: artifact.add_dir("outside"), lambda: artifact.add_file(os.fsdecode(b"outside/\xff"), "x")):
        with pytest.raises(InvalidInputError):
            add()
    with pytest.raises(InvalidInputError):
        artifact.add_file("a/1", os.fsdecode(b"\xff"))
    with pytest.raises(InvalidInputError):
        artifact.add_reference("s3://bucket/x", os.fsdecode(b"\xff"))
    unchanged(artifact)


def deep(levels: int, name: str, each: bool = False, root: str = "outside") -> None:
    """`root/name/name/…/file`, made step by step because its path may be too long; `each` has a file."""
    os.makedirs(root)
    top = os.open(root, os.O_RDONLY)
    for _ in range(levels):
        if each:
            os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=top))
        os.mkdir(name, dir_fd=top)
        below = os.open(name, os.O_RDONLY, dir_fd=top)
        os.close(top)
        top = below
    with open(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=top), "w") as file:
        file.write("deep")
    os.close(top)


def test_200_directories_deep(artifact: em.Artifact) -> None:
    deep(200, "d")
    artifact.add_dir("outside")
    assert contents(artifact)["outside/" + "d/" * 200 + "file"] == b"deep"
    assert problems(artifact) == []


DEPTHS = """
import sys
from t9k import em
from t9k.em import _engine
from t9k.em.cli.digests import digests
from t9k.em.progress import Progress
artifact = em.load_artifact(sys.argv[1])
try:
    artifact.add_dir("outside")
    print("added")
except em.errors.InvalidInputError as error:
    print(str(error)[-300:])
print([problem for problem in _engine.verify(".em/store", artifact.local)["problems"]])
print(_engine.gc(".em/store", 0, False)["unreachable_objects"])
try:
    print([path.count("/") for path, _ in digests(["outside"], Progress("hash"))])
except em.errors.StoreError as error:
    print(str(error)[-18:])
"""


@pytest.mark.parametrize("levels", [1500, 20_000 if POINTS >= 200 else 4000])
def test_directories_deeper_than_a_stack(artifact: em.Artifact, levels: int) -> None:
    """Added as long as an artifact can have such a path, else refused at once; with little stack and 64 open files.

    `gc` removes what a load has left that was killed.
    """
    deep(levels, "d")
    leftover = Path(".em/artifacts", f".tmp-{0:032x}")
    deep(500, "d", root=str(leftover / "deep"))
    Path(leftover, ".artifact").mkdir()
    Path(leftover, ".artifact/intent-of-the-dead").write_text(oracle.owner(os.getpid()) + "0")
    try:
        script = ["sh", "-c", 'ulimit -s 512; ulimit -n 64; exec "$@"', "sh", sys.executable, "-c", DEPTHS]
        environment = {**os.environ, "RUST_MIN_STACK": str(256 << 10)}
        ended = subprocess.run([*script, artifact.local], capture_output=True, text=True, env=environment, check=False)
        assert ended.returncode == 0, ended.stderr
        assert not leftover.exists()
        added, *rest = ended.stdout.splitlines()
        if levels == 1500:
            assert added == "added"
            assert contents(artifact)["outside/" + "d/" * levels + "file"] == b"deep"
            assert rest == ["[]", "0", f"[{levels + 1}]"]
        else:
            assert "longer than 4096 bytes" in added
            assert rest == ["[]", "0", "File name too long"]
            unchanged(artifact)
    finally:
        # Python's own way recurses.
        subprocess.run(["rm", "-rf", "outside", artifact.local, leftover], check=True)


@pytest.mark.usefixtures("strace")
def test_nested_directories_with_files_are_made_once_each(artifact: em.Artifact) -> None:
    deep(60, "d", each=True)
    ended = traced(lambda: artifact.add_dir("outside"), "--trace=mkdir")
    assert ended.ok, ended.message
    assert len(re.findall(r"mkdir\(.*/outside", ended.log)) == 61
    assert len(contents(artifact)) == 62
    assert problems(artifact) == leftovers(artifact) == []


@pytest.mark.parametrize("length", [3500, 3700, 4100, 5000])
def test_long_paths_are_kept_or_refused(artifact: em.Artifact, length: int) -> None:
    deep(length // 100, "d" * 99)
    path = "outside/" + ("d" * 99 + "/") * (length // 100) + "file"
    if len(os.path.join(artifact.local, path)) < 4096:
        artifact.add_dir("outside")
        assert contents(artifact)[path] == b"deep"
    else:
        with pytest.raises((InvalidInputError, StoreError)):
            artifact.add_dir("outside")
        unchanged(artifact)
        # From the source's side no path is too long.
        with pytest.raises((InvalidInputError, StoreError)):
            artifact.add_dir("outside", "short")
        unchanged(artifact)
    shutil.rmtree("outside")


def test_file_that_could_not_be_opened_is_refused(artifact: em.Artifact) -> None:
    """The engine makes files from their directories, where there is room for more."""
    Path("a/long").write_text("long")
    room = 4095 - len(artifact.local) - 1
    directory = ("d" * 99 + "/") * ((room - 1) // 100)
    path = directory + "f" * (room - len(directory))
    with pytest.raises(InvalidInputError, match="more than 4095 bytes"):
        artifact.add_file("a/long", path + "f")
    unchanged(artifact)
    artifact.add_file("a/long", path)
    assert contents(artifact)[path] == b"long"
    manifest = _engine.read_manifest(artifact.local)
    with pytest.raises(_engine.EngineError, match="more than 4095 bytes"):
        _engine.materialize(".em/store", artifact.local + "+", manifest)
    assert not Path(artifact.local + "+").exists()
    assert problems(artifact) == problems() == leftovers(artifact) == []


def test_path_of_4000_bytes_is_kept() -> None:
    """Where the artifact's own directory leaves room for it below the system's limit."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short, contextlib.chdir(short):
        artifact = em.create_artifact("x")
        directory = ("d" * 99 + "/") * 39
        path = directory + "f" * (4000 - len(directory))
        Path("source").write_text("long")
        artifact.add_file("source", path)
        assert contents(em.load_artifact(artifact.local)) == {path: b"long"}
        again = em.create_artifact("y")
        again.add_dir(Path(artifact.local, "d" * 99))
        assert contents(again) == {path: b"long"}
        assert problems(artifact) == problems() == leftovers(artifact) == []


def test_links(artifact: em.Artifact) -> None:
    Path("outside").mkdir()
    Path("outside/secret").write_text("followed")
    Path("b").mkdir()
    Path("b/file").symlink_to("../outside/secret")
    Path("b/dir").symlink_to("../outside")
    artifact.add_dir("b")
    expected = {"there/file": b"one", "b/file": b"followed", "b/dir/secret": b"followed"}
    assert contents(artifact) == expected
    assert not Path(artifact.local, "b/file").is_symlink()
    assert not Path(artifact.local, "b/dir").is_symlink()
    for target in ("loop", ".", "missing"):
        Path("b/loop").symlink_to(target)
        with pytest.raises((InvalidInputError, NotFoundError)):
            artifact.add_dir("b")
        Path("b/loop").unlink()
    assert contents(artifact) == expected
    # Two that lead to each other.
    Path("outside/one").symlink_to("../b/back")
    Path("b/back").mkdir()
    Path("b/back/two").symlink_to("../../outside")
    with pytest.raises(InvalidInputError, match="leads back"):
        artifact.add_dir("b")
    assert contents(artifact) == contents(em.load_artifact(artifact.local)) == expected


RESERVED = ["CON", "nul.txt", "com1", "d/AUX", "lpt9.tar.gz", "ends with a dot.", "space ", "a:b", "what?", "new\nline"]


def test_names_reserved_on_windows_are_kept_with_a_warning(
    artifact: em.Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    artifact.add_file("a/1", "console/COM10.txt")
    artifact.add_reference("s3://bucket/con-text", "null")
    assert caplog.messages == []
    for name in RESERVED:
        Path("b", name).parent.mkdir(parents=True, exist_ok=True)
        Path("b", name).write_text("reserved")
    artifact.add_dir("b")
    assert [message.partition(" of the paths")[0] for message in caplog.messages] == [str(len(RESERVED))]
    artifact.add_reference("s3://bucket/x", "there/PRN")
    assert len(caplog.messages) == 2
    assert {f"b/{name}" for name in RESERVED} < set(contents(artifact))
    assert problems(artifact) == []


@pytest.mark.parametrize("kind", ["socket", "fifo", "device"])
def test_special_files_are_refused_without_waiting(artifact: em.Artifact, kind: str) -> None:
    Path("outside").mkdir()
    if kind == "fifo":
        os.mkfifo("outside/x")
    elif kind == "device":
        Path("outside/x").symlink_to("/dev/null")
    else:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("outside/x")
    with pytest.raises(InvalidInputError):
        artifact.add_dir("outside")
    with pytest.raises(InvalidInputError):
        artifact.add_file("outside/x")
    unchanged(artifact)


def test_a_file_that_becomes_a_link_during_the_add(artifact: em.Artifact) -> None:
    """What is stored is what was there at one moment: the file, or what the link names. Never a mixture."""
    Path("outside").mkdir()
    Path("outside/secret").write_text("s" * 100_000)
    Path("b").mkdir()
    for index in range(200):
        Path("b", str(index)).write_text("f" * 100_000)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for index in range(0, 200, 7):
                Path("outside/link").symlink_to("../outside/secret")
                os.replace("outside/link", Path("b", str(index)))
                Path("outside/new").write_text("f" * 100_000)
                os.replace("outside/new", Path("b", str(index)))

    swapping = threading.Thread(target=swap)
    swapping.start()
    before = contents(artifact)
    seen, met = 0, set()
    try:
        while seen < 10 or not any("became a symbolic link" in message for message in met):
            seen += 1
            try:
                artifact.add_dir("b")
            except (
                ConflictError,
                NotFoundError,
                InvalidInputError,
            ) as error:  # the last one: a link that led nowhere twice
                met.add(str(error))
                assert contents(artifact) == before
            before = contents(artifact)
            assert set(before.values()) <= {b"one", b"f" * 100_000, b"s" * 100_000}
    finally:
        stop.set()
        swapping.join()
    artifact.add_dir("b")
    assert contents(artifact) == {"there/file": b"one"} | tree("b")
    assert problems(artifact) == leftovers(artifact) == []


def test_a_directory_that_becomes_a_link_during_the_add(artifact: em.Artifact) -> None:
    """Each file is whole, from one side or the other, and what the link leads to is only read."""
    for name, text in (("b/d", "f"), ("outside/d", "s")):
        Path(name).mkdir(parents=True)
        for index in range(30):
            Path(name, str(index)).write_text(text * 50_000)
    outside = tree("outside/d")
    stop = threading.Event()

    def swap() -> None:
        targets = itertools.cycle(["../outside/d", "..", "nowhere"])
        while not stop.is_set():
            os.rename("b/d", "outside/kept")
            Path("b/d").symlink_to(next(targets))
            time.sleep(0.001)
            Path("b/d").unlink()
            os.rename("outside/kept", "b/d")

    swapping = threading.Thread(target=swap)
    swapping.start()
    before, added, refused = contents(artifact), 0, 0
    try:
        while added < 10 or refused < 10:
            try:
                artifact.add_dir("b")
                added += 1
            except (ConflictError, NotFoundError, InvalidInputError):
                refused += 1
                assert contents(artifact) == before
            before = contents(artifact)
            assert set(before.values()) <= {b"one", b"f" * 50_000, b"s" * 50_000}
            assert not [path for path in Path(artifact.local).rglob("*") if path.is_symlink()]
    finally:
        stop.set()
        swapping.join()
    assert tree("outside/d") == outside
    artifact.add_dir("b")
    assert contents(artifact) == {"there/file": b"one"} | tree("b")
    assert problems(artifact) == problems() == leftovers(artifact) == []


def test_a_file_that_becomes_a_fifo_during_the_add(artifact: em.Artifact) -> None:
    """It is not stored as an empty file, and nothing waits for a writer."""
    Path("b").mkdir()
    for index in range(50):
        Path("b", str(index)).write_text("file")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.mkfifo("fifo")
            os.replace("fifo", "b/7")
            Path("file").write_text("file")
            os.replace("file", "b/7")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(50):
            with contextlib.suppress(InvalidInputError, ConflictError, StoreError):
                artifact.add_dir("b")
            assert set(contents(artifact).values()) <= {b"one", b"file"}
    finally:
        stop.set()
        swapping.join()


def test_a_link_in_the_artifact_is_never_followed(artifact: em.Artifact) -> None:
    Path("outside").mkdir()
    Path("outside/file").write_text("mine")
    shutil.rmtree(Path(artifact.local, "there"))
    Path(artifact.local, "there").symlink_to(Path("outside").absolute())
    with pytest.raises(InvalidInputError):
        artifact.add_dir("a", "there")
    with pytest.raises(InvalidInputError):
        artifact.add_file("a/1", "there/file")
    assert {path.name: path.read_text() for path in Path("outside").iterdir()} == {"file": "mine"}

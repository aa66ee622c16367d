"""The artifact is a dict, whatever is done to it in whatever order."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from blake3 import blake3
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from t9k import em
from t9k.em import _engine
from t9k.em.errors import InvalidInputError

from .conftest import POINTS, contents, problems, traced

NAMES = st.sampled_from(["a", "b", "A", "é", "日本", "x y", "d/a", "d/b", "d/e/f", "a/x", "..", ".artifact/x"])
TEXTS = st.sampled_from([(0, b""), (3, b"1"), (3, b"2"), (5_000, b"3"), (300_000, b"4")]).map(
    lambda text: text[0] * text[1]
)
# The calls that an add of a few files makes, each of which may be its last one.
KILLED_AT = ("write", "pwrite64", "openat", "renameat2", "renameat", "rename", "linkat", "unlinkat", "unlink", "mkdir")


def folded(path: str) -> list[str]:
    """A path and all directories on the way to it, as a case-insensitive file system sees them."""
    parts = path.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def fits(model: dict[str, bytes], path: str) -> bool:
    """Whether a file at `path` can stand beside those of the model."""
    if path == ".." or path.startswith(".artifact"):
        return False
    for other in model:
        for mine in folded(path):
            for theirs in folded(other):
                if mine != theirs and mine.lower() == theirs.lower():
                    return False
                if mine == theirs and (mine == path) != (theirs == other):
                    return False
    return True


class Store(RuleBasedStateMachine):
    @initialize()
    def create(self) -> None:
        self.home = os.getcwd()
        self.directory = tempfile.mkdtemp()
        os.chdir(self.directory)
        os.environ["XDG_CACHE_HOME"] = str(Path("cache").absolute())
        self.artifact = em.create_artifact("x")
        self.model: dict[str, bytes] = {}
        self.damaged: set[str] = set()
        _engine.verify(".em/store")

    def teardown(self) -> None:
        if hasattr(self, "home"):
            os.chdir(self.home)
            shutil.rmtree(self.directory)

    def expect(self, files: dict[str, bytes]) -> bool:
        """What an add of these files should do."""
        result = dict(self.model)
        for path, text in files.items():
            if not fits(result, path):
                return False
            result[path] = text
        self.model = result
        return True

    def heal(self, files: dict[str, bytes]) -> None:
        """An add of bytes that the store has lost stores them anew, and links its own paths."""
        self.damaged -= set(files)

    @rule(path=NAMES, text=TEXTS)
    def add_file(self, path: str, text: bytes) -> None:
        Path("source").write_bytes(text)
        if self.expect({path: text}):
            self.artifact.add_file("source", path)
            self.heal({path: text})
        else:
            try:
                self.artifact.add_file("source", path)
            except InvalidInputError:
                return
            raise AssertionError(f"{path} was added beside {sorted(self.model)}")

    @rule(prefix=st.sampled_from(["d", "t", "D", "a"]), texts=st.lists(TEXTS, min_size=1, max_size=4))
    def add_dir(self, prefix: str, texts: list[bytes]) -> None:
        shutil.rmtree("tree", ignore_errors=True)
        Path("tree").mkdir()
        for index, text in enumerate(texts):
            Path("tree", str(index)).write_bytes(text)
        files = {f"{prefix}/{index}": text for index, text in enumerate(texts)}
        if self.expect(files):
            self.artifact.add_dir("tree", prefix)
            self.heal(files)
        else:
            try:
                self.artifact.add_dir("tree", prefix)
            except InvalidInputError:
                return
            raise AssertionError(f"{files.keys()} were added beside {sorted(self.model)}")

    @precondition(lambda self: shutil.which("strace") is not None)
    @rule(
        path=st.sampled_from(["d", "t", "d/e"]),
        texts=st.dictionaries(st.sampled_from(["a", "b", "f", "0", "1"]), TEXTS, min_size=1),
        call=st.sampled_from(KILLED_AT),
        when=st.integers(1, 4),
    )
    def killed_add(self, path: str, texts: dict[str, bytes], call: str, when: int) -> None:
        """Killed on the way in, between or out: the artifact is what it was, or what it was to be."""
        shutil.rmtree("tree", ignore_errors=True)
        Path("tree").mkdir()
        for name, text in texts.items():
            Path("tree", name).write_bytes(text)
        before, files = self.model, {f"{path}/{name}": text for name, text in texts.items()}
        if not self.expect(files):
            return
        kill = (f"--trace={call}", f"--inject={call}:signal=KILL:when={when}")
        ended = traced(lambda: self.artifact.add_dir("tree", path), *kill)
        assert ended.ok or ended.signal == 9, ended
        self.artifact = em.load_artifact(self.artifact.local)
        added = {entry["path"]: entry["digest"] for entry in self.artifact.objects if entry["type"] == "file"}
        if ended.signal and added == digests(before):
            self.model = before  # perhaps the same, of bytes that were damaged and may still be
        else:
            assert added == digests(self.model)
            self.heal(files)

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """Somebody writes through a link: every path with these bytes is damaged, and verify says so."""
        path = data.draw(st.sampled_from(sorted(path for path, text in self.model.items() if text)))
        target = Path(".em/store/objects", *split(blake3(self.model[path]).hexdigest()))
        if not target.exists():
            return
        target.chmod(0o644)
        with target.open("r+b") as file:
            file.write(b"!")
        target.chmod(0o444)
        same = {other for other, text in self.model.items() if text == self.model[path]}
        self.damaged |= same

    @rule()
    def reload(self) -> None:
        self.artifact = em.load_artifact(self.artifact.local)

    @rule(dry_run=st.booleans())
    def gc(self, dry_run: bool) -> None:
        done = _engine.gc(".em/store", 0, dry_run)
        if not dry_run:
            assert done["deleted_objects"] == done["unreachable_objects"]
            present = {path.parent.name + path.name for path in Path(".em/store/objects").glob("??/[!.]*")}
            assert present <= {blake3(text).hexdigest() for text in self.model.values()}

    @invariant()
    def is_the_dict(self) -> None:
        if not hasattr(self, "model"):
            return
        assert {entry["path"] for entry in self.artifact.objects if entry["type"] == "file"} == set(self.model)
        seen = contents(self.artifact)
        for path, text in self.model.items():
            if path not in self.damaged:
                assert seen[path] == text, path
        if not self.damaged:
            assert problems(self.artifact) == []
        else:
            named = {problem["kind"] for problem in problems(self.artifact)}
            wrong = any(seen[path] != self.model[path] for path in self.damaged if path in self.model)
            assert named or not wrong


def digests(model: dict[str, bytes]) -> dict[str, str]:
    return {path: blake3(text).hexdigest() for path, text in model.items()}


def split(digest: str) -> tuple[str, str]:
    return digest[:2], digest[2:]


Store.TestCase.settings = settings(
    max_examples=POINTS,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestStore = Store.TestCase

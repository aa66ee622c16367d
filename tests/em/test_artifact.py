"""Artifacts on real stores, checked with the `blake3` package."""

import subprocess
import sys
from pathlib import Path

import blake3
import pytest
from t9k import em
from t9k.em.errors import AuthError, InvalidInputError, NotFoundError

pytestmark = pytest.mark.usefixtures("files")


def paths(artifact: em.Artifact) -> list[str]:
    return [entry["path"] for entry in artifact.objects]


@pytest.mark.parametrize(("obj_path", "prefix"), [(None, "a"), ("a", "a"), ("b/", "b/a"), ("b/a", "b/a")])
def test_add_dir_takes_every_obj_path_of_the_reference(obj_path: str | None, prefix: str) -> None:
    artifact = em.create_artifact("x")
    artifact.add_dir("a/", obj_path)
    assert paths(artifact) == [f"{prefix}/1.txt", f"{prefix}/2.bin"]
    assert Path(artifact.local, prefix, "2.bin").read_bytes() == Path("a/2.bin").read_bytes()


@pytest.mark.parametrize(("obj_path", "path"), [(None, "1.txt"), ("a/", "a/1.txt"), ("a/1.png", "a/1.png")])
def test_add_file_takes_every_obj_path_of_the_reference(obj_path: str | None, path: str) -> None:
    artifact = em.create_artifact("x")
    artifact.add_file("a/1.txt", obj_path)
    assert paths(artifact) == [path]


def test_local_paths_are_text_or_path_objects() -> None:
    artifact = em.create_artifact("x")
    artifact.add_dir(Path("a"))
    artifact.add_file(Path("a/1.txt"), "b/")
    assert paths(artifact) == ["a/1.txt", "a/2.bin", "b/1.txt"]
    assert em.load_artifact(Path(artifact.local)).to_dict() == artifact.to_dict()
    Path("run_config.yaml").write_text("name: cnn\n")
    run = em.create_run(config_path=Path("run_config.yaml"))
    run.finish()
    assert em.load_run(Path(run.local)).name == "cnn"
    with pytest.raises(AuthError, match="not logged in"):
        em.upload(Path(run.local))
    with pytest.raises(InvalidInputError, match=r"text or a pathlib\.Path, not a NoneType"):
        artifact.add_file(None)  # type: ignore[arg-type]


def test_loaded_artifact_equals_the_created_one() -> None:
    artifact = em.create_artifact("x", labels=["l"], description="d")
    artifact.add_dir("a")
    artifact.add_reference("s3://bucket/data.csv")
    assert em.load_artifact(artifact.local).to_dict() == artifact.to_dict()
    by_path = {entry["path"]: entry for entry in artifact.objects}
    assert by_path["a/2.bin"]["digest"] == blake3.blake3(Path("a/2.bin").read_bytes()).hexdigest()
    assert by_path["data.csv"]["uri"] == "s3://bucket/data.csv"


def test_equal_content_is_stored_once() -> None:
    for _ in range(3):
        em.create_artifact("x").add_dir("a")
    assert len([path for path in Path(".em/store/objects").rglob("*") if path.is_file()]) == 2


def test_errors_are_typed() -> None:
    artifact = em.create_artifact("x")
    with pytest.raises(NotFoundError):
        artifact.add_file("nowhere")
    with pytest.raises(ValueError, match="not normalized"):
        artifact.add_file("a/1.txt", "../1.txt")
    with pytest.raises(RuntimeError):
        em.load_artifact("nowhere")
    with pytest.raises(NotFoundError, match=r"no artifact at 'nowhere' .hint: no server was asked"):
        em.load_artifact("nowhere")
    with pytest.raises(AuthError, match="not logged in"):
        artifact.upload()
    with pytest.raises(InvalidInputError):
        em.create_artifact("a/b")
    assert artifact.objects == []


def test_forked_child_adds_too() -> None:
    script = (
        "import os\nfrom t9k import em\na = em.create_artifact('x')\na.add_dir('a')\n"
        "pid = os.fork()\n"
        "if pid == 0:\n    em.create_artifact('y').add_dir('a')\n    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_import_is_light() -> None:
    script = "import sys\nfrom t9k import em\nprint({'requests', 'numpy', 'click', 'tqdm'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert result.stdout.strip() == "set()"


def test_names_that_windows_refuses_are_added_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    artifact = em.create_artifact("x")
    artifact.add_file("a/1.txt", "aux")
    assert paths(artifact) == ["aux"]
    assert "1 of the paths" in caplog.text

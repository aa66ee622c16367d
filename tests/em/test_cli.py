"""The command line on real stores."""

import json
import os
import shutil
from pathlib import Path

import blake3
import pytest
from t9k import em
from t9k.em.cli import main

pytestmark = pytest.mark.usefixtures("files")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*args: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exit_info:
            main(args)
        return int(exit_info.value.code or 0), capsys.readouterr().out

    return call


def test_adds_lists_verifies_and_reports_damage(run) -> None:
    code, local = run("add", "a", "--name", "x")
    assert code == 0
    assert "a/1.txt" in run("ls", local.strip())[1]
    assert run("ls")[1].strip() == os.path.basename(local.strip())
    assert json.loads(run("show", os.path.basename(local.strip()), "--json")[1])["name"] == "x"
    assert run("verify") == (0, f"2 files, {(3 << 20) + 3:,} bytes, 0 problems\n")
    digest = run("hash", "a/1.txt")[1].split()[0]
    damaged = Path(".em/store/objects", digest[:2], digest[2:])
    damaged.chmod(0o644)
    damaged.write_text("two")
    code, report = run("verify", local.strip())
    assert code == 1
    assert "damaged" in report
    code, report = run("verify")
    held = f"  {os.path.basename(local.strip())}: a/1.txt"
    assert (code, report.splitlines()[:2]) == (1, [f"damaged: {damaged}", held])
    em.load_artifact(local.strip()).add_file("a/1.txt", "a/1.txt")
    assert run("verify")[0] == run("verify", local.strip())[0] == 0


def test_verify_names_the_files_where_another_artifact_is_damaged_too(run, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = [run("add", "a/1.txt", "a/2.bin", "--name", name)[1].strip() for name in ("x", "y", "z")]
    digest = run("hash", "a/1.txt")[1].split()[0]
    damaged = Path(".em/store/objects", digest[:2], digest[2:])
    damaged.chmod(0o644)
    damaged.write_text("two")
    (manifest,) = Path(artifacts[1], ".artifact").glob("manifest-*")
    manifest.chmod(0o644)
    manifest.write_bytes(b"no manifest")
    held = [f"{os.path.basename(artifacts[at])}: 1.txt" for at in (0, 2)]
    with pytest.raises(SystemExit, match="1"):
        main(["verify", "--json"])
    said = capsys.readouterr()
    assert json.loads(said.out)["problems"] == [{"kind": "damaged", "path": str(damaged), "files": held}]
    assert said.err.startswith("Warning: ")
    assert os.path.basename(artifacts[1]) in said.err
    code, text = run("verify")
    assert (code, text.splitlines()[:3]) == (1, [f"damaged: {damaged}", f"  {held[0]}", f"  {held[1]}"])


def test_add_of_several_makes_all_or_no_artifact(run, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo("pipe")
    Path("b").mkdir()
    Path("b/gone").symlink_to("nowhere")
    for bad in ("pipe", "b"):
        with pytest.raises(SystemExit) as exit_info:
            main(["add", "a", bad, "a/1.txt"])
        assert exit_info.value.code == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert f"{bad} cannot be added, so no artifact was made" in said.err
        assert list(Path(".em/artifacts").iterdir()) == []
    # What was stored is used by the next try, or reclaimed.
    stored = {path: path.stat().st_ino for path in Path(".em/store/objects").glob("??/*")}
    assert len(stored) == 2
    code, local = run("add", "a")
    assert code == 0
    assert {path: path.stat().st_ino for path in Path(".em/store/objects").glob("??/*")} == stored
    shutil.rmtree(local.strip())
    assert json.loads(run("gc", "--older-than", "0s", "--json")[1])["deleted_objects"] == 2


def test_gc_reclaims_what_a_deleted_artifact_had(run) -> None:
    kept, gone = em.create_artifact("kept"), em.create_artifact("gone")
    kept.add_file("a/1.txt")
    gone.add_dir("a")
    shutil.rmtree(gone.local)
    size = 3 << 20
    planned = json.loads(run("gc", "--dry-run", "--json")[1])
    freed = planned["reclaimable_bytes"]
    assert planned == {
        "unreachable_objects": 1,
        "unreachable_bytes": size,
        "reclaimable_bytes": freed,
        "deleted_objects": 0,
        "freed_bytes": 0,
    }
    said = f"1 object that no artifact reaches, {size:,} bytes\ndeleting them frees {freed:,} bytes on the disk\n"
    assert run("gc", "--dry-run") == (0, said)
    assert "1 set aside" in run("gc")[1]
    done = json.loads(run("gc", "--older-than", "0s", "--json")[1])
    assert done == planned | {"deleted_objects": 1, "freed_bytes": freed}
    assert run("verify", kept.local)[0] == 0
    assert run("gc", "--older-than", "soon")[0] == 2


def test_du_tells_apparent_stored_and_unique_bytes(run) -> None:
    first, second = em.create_artifact("first"), em.create_artifact("second")
    first.add_dir("a")
    first.add_file("a/1.txt", "again")
    second.add_file("a/1.txt")
    rows = {os.path.basename(row["artifact"]): row for row in json.loads(run("du", "--json")[1])}
    size = 3 << 20
    sizes = {name: (row["apparent_bytes"], row["stored_bytes"], row["unique_bytes"]) for name, row in rows.items()}
    assert sizes[first.alternative_name] == (size + 6, size + 3, size)
    assert sizes[second.alternative_name] == (3, 3, 0)
    assert sizes["total"] == (size + 9, size + 3, size + 3)
    assert "3.0 MiB" in run("du")[1]


def test_diff_tells_paths_and_shared_bytes(run) -> None:
    first, second = em.create_artifact("first"), em.create_artifact("second")
    first.add_dir("a")
    first.add_file("a/1.txt", "old")
    data = Path("a/2.bin").read_bytes()
    Path("a/2.bin").write_bytes(data[: 1 << 20] + b"inserted" + data[1 << 20 :])
    second.add_dir("a")
    second.add_file("a/1.txt", "new")
    found = json.loads(run("diff", first.local, second.local, "--json")[1])
    assert (found["added"], found["removed"], found["changed"]) == (["new"], ["old"], ["a/2.bin"])
    assert found["unique_bytes"] == (3 << 20) + 11
    assert found["shared_bytes"] > 2.5 * (1 << 20)
    assert "~ a/2.bin" in run("diff", first.local, second.local)[1]


def test_hash_walks_directories_and_equals_blake3(run) -> None:
    os.mkfifo("a/pipe")  # nothing writes to it
    expected = {path: blake3.blake3(Path(path).read_bytes()).hexdigest() for path in ("a/1.txt", "a/2.bin")}
    assert json.loads(run("hash", "a", "--json")[1]) == expected
    lines = [f"{digest}  {path}" for path, digest in expected.items()]
    assert run("hash", "a/1.txt", "a")[1].splitlines() == [lines[0], *lines]


def test_errors_are_one_line_and_exit_1(run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["ls", "nowhere"])
    assert exit_info.value.code == 1
    assert capsys.readouterr().err == "Error: no artifact at 'nowhere'\n"


def test_origin_names_the_artifacts_and_runs_of_a_copied_and_renamed_file(run) -> None:
    made, other, unmarked = em.create_artifact("made"), em.create_artifact("other"), em.create_artifact("unmarked")
    made.add_dir("a")
    unmarked.add_file("a/2.bin", "again.bin")
    other.add_file("a/1.txt")
    with em.create_run(name="producer") as producer:
        producer.mark_output(made)
    with em.create_run(name="consumer") as consumer:
        consumer.mark_input(made)
    shutil.copy("a/2.bin", "renamed")
    code, text = run("origin", "renamed")
    assert code == 0
    assert f"{made.alternative_name}: a/2.bin" in text
    assert f"output of {producer.alternative_name}" in text
    assert f"input of {consumer.alternative_name}" in text
    assert f"{unmarked.alternative_name}: again.bin\n    of no run here" in text
    assert other.alternative_name not in text

    digest = blake3.blake3(Path("renamed").read_bytes()).hexdigest()
    Path("renamed").unlink()
    code, text = run("origin", digest, "--json")
    (found,) = json.loads(text)
    assert (code, found["digest"]) == (0, digest)
    assert [origin["paths"] for origin in found["artifacts"]] == [["a/2.bin"], ["again.bin"]]
    sides = {(mark["side"], mark["status"]) for mark in found["artifacts"][0]["runs"]}
    assert sides == {("output", "Complete"), ("input", "Complete")}


def test_show_of_an_artifact_names_its_runs_and_of_a_run_no_path_twice(run) -> None:
    made = em.create_artifact("made")
    with em.create_run(name="producer") as producer:
        producer.mark_output(made)
    text = run("show", "made")[1]
    assert f"runs\n  output of  {producer.alternative_name}\n" in text
    (mark,) = json.loads(run("show", "made", "--json")[1])["runs"]
    assert (mark["side"], mark["status"]) == ("output", "Complete")
    assert f"outputs\n  Artifact  {made.alternative_name}\n" in run("show", "producer")[1]


def test_du_names_artifacts_without_their_parent_directory(run) -> None:
    made = em.create_artifact("made")
    assert f"0 B  {made.alternative_name}\n" in run("du")[1]
    assert json.loads(run("du", "--json")[1])[0]["artifact"] == f".em/artifacts/{made.alternative_name}"


def test_origin_of_unknown_bytes_or_no_file_exits_with_1(run) -> None:
    em.create_artifact("x").add_file("a/1.txt")
    code, text = run("origin", "a")
    assert code == 1
    assert text.count("in no local artifact") == 1
    assert run("origin", "nowhere")[0] == 1
    assert run("origin")[0] == 2

"""The command line on real stores."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import blake3
import pytest
from t9k import em
from t9k.em import _engine
from t9k.em.cli import main
from t9k.em.cli.console import echo_json_rows

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
    said = [
        f"damaged: {damaged} (3 bytes): its bytes are not those of its name",
        held,
        f"2 files, {(3 << 20) + 3:,} bytes, 1 problem: 1 damaged (3 bytes)",
    ]
    assert (code, report.splitlines()) == (1, said)
    em.load_artifact(local.strip()).add_file("a/1.txt", "a/1.txt")
    assert run("verify")[0] == run("verify", local.strip())[0] == 0


def test_verify_names_the_files_where_another_artifact_is_damaged_too(run, capsys: pytest.CaptureFixture[str]) -> None:
    """And du and origin tell of the others; show and gc say which it is and what helps."""
    artifacts = [run("add", "a/1.txt", "a/2.bin", "--name", name)[1].strip() for name in ("x", "y", "z")]
    digest = run("hash", "a/1.txt")[1].split()[0]
    damaged = Path(".em/store/objects", digest[:2], digest[2:])
    damaged.chmod(0o644)
    damaged.write_text("two")
    (manifest,) = Path(artifacts[1], ".artifact").glob("manifest-*")
    manifest.chmod(0o644)
    manifest.write_bytes(b"no manifest")
    bad, *good = (os.path.basename(artifacts[at]) for at in (1, 0, 2))
    code, text = run("verify", "--store", "--json")
    report = json.loads(text)
    none = {"files": 0, "bytes": 0}
    assert (code, report["missing"], report["stray"], report["unreadable"]) == (1, none, none, none)
    assert report["damaged"] == {"files": 2, "bytes": 3 + 11}
    problems = {problem["thing"]: problem for problem in report["problems"]}
    assert problems["object"]["path"] == str(damaged)
    assert problems["object"]["files"] == [{"artifact": f".em/artifacts/{name}", "path": "1.txt"} for name in good]
    assert problems["manifest"]["path"] == f".em/artifacts/{bad}/.artifact/{manifest.name}"
    assert problems["manifest"]["reason"].startswith("not a manifest")
    code, text = run("verify")
    lines = [line for line in text.splitlines() if line.startswith(" ")]
    assert (code, lines) == (1, [f"  {name}: 1.txt" for name in good])

    code, text = run("du", "--json")
    assert code == 1
    assert [os.path.basename(row["artifact"]) for row in json.loads(text)] == [*good, "total"]
    # One that cannot be looked into is not left out without a word.
    loop = Path(".em/artifacts/loop")
    loop.symlink_to("loop")
    assert "loop" in run("ls")[1].split()
    for call in (("du",), ("origin", digest, "--local"), ("gc",)):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(call)
        assert f"{loop}" in capsys.readouterr().err
    (unreadable,) = (one for one in json.loads(run("verify", "--json")[1])["problems"] if one["kind"] == "unreadable")
    assert (unreadable["thing"], unreadable["path"]) == ("artifact", str(loop))
    loop.unlink()
    code, text = run("origin", "a/2.bin", "--local")
    assert (code, [name for name in (bad, *good) if name in text]) == (0, good)
    for call in (("show", bad), ("ls", bad), ("diff", bad, good[0]), ("gc",), ("gc", "--dry-run"), ("verify", bad)):
        with pytest.raises(SystemExit, match="1"):
            main(call)
        said = capsys.readouterr()
        assert said.out == ""
        assert manifest.name in said.err
        assert "(hint: " in said.err


def test_missing_objects_are_told_with_their_files_and_strays_stay(run, capsys: pytest.CaptureFixture[str]) -> None:
    local = run("add", "a/1.txt", "a/2.bin")[1].strip()
    for path in Path(".em/store/objects").glob("??/*"):
        path.unlink()
    Path(local, "mine").write_text("mine")
    with pytest.raises(SystemExit, match="1"):
        main(["verify", "--store"])
    said = capsys.readouterr()
    name, size = os.path.basename(local), (3 << 20) + 3
    assert sorted(line for line in said.out.splitlines() if line.startswith(" ")) == [
        f"  {name}: 1.txt",
        f"  {name}: 2.bin",
    ]
    assert said.out.endswith(f"0 files, 0 bytes, 2 problems: 2 missing ({size:,} bytes)\n")
    assert "add_file" in said.err
    code, text = run("verify", local, "--json")
    report = json.loads(text)
    assert (code, report["missing"]) == (1, {"files": 2, "bytes": size})
    assert report["stray"] == {"files": 1, "bytes": 4}
    assert Path(local, "mine").read_text() == "mine"
    artifact = em.load_artifact(local)
    artifact.add_file("a/1.txt", "1.txt")
    artifact.add_file("a/2.bin", "2.bin")
    artifact.add_file(Path(local, "mine"), "mine")
    assert run("verify", local) == (0, f"3 files, {size + 4:,} bytes, 0 problems\n")
    assert run("verify")[0] == 0


def test_store_of_a_newer_version_is_refused_with_what_helps(run, capsys: pytest.CaptureFixture[str]) -> None:
    local = run("add", "a")[1].strip()
    Path(".em/store/VERSION").write_text("2\n")
    for call in (["verify"], ["verify", local], ["gc"], ["du"], ["diff", local, local], ["add", "a"]):
        with pytest.raises(SystemExit, match="1"):
            main(call)
        assert "upgrade the package" in capsys.readouterr().err


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


def test_gc_says_what_it_frees_before_anything_is_deleted(run, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = em.create_artifact("gone")
    gone.add_dir("a")
    shutil.rmtree(gone.local)
    seen = []

    def collect(store: str, older_than_s: int, dry_run: bool, progress: object, planned: Any) -> dict[str, int]:
        def look(counts: dict[str, int]) -> None:
            seen.append((dict(counts), len(list(Path(".em/store/objects").glob("??/*")))))
            planned(counts)

        return gc(store, older_than_s, dry_run, progress, look)

    gc = _engine.gc
    monkeypatch.setattr(_engine, "gc", collect)
    code, said = run("gc", "--older-than", "0s")
    ((counts, objects),) = seen
    assert (code, objects, counts["unreachable_objects"], counts["deleted_objects"]) == (0, 2, 2, 0)
    freed = f"{counts['reclaimable_bytes']:,} bytes on the disk"
    assert said.splitlines()[1:] == [f"deleting them frees {freed}", f"deleted 2, freed {freed}"]

    def refuse(counts: dict[str, int]) -> None:
        raise KeyboardInterrupt

    em.create_artifact("gone").add_dir("a")
    shutil.rmtree(next(Path(".em/artifacts").iterdir()))
    with pytest.raises(KeyboardInterrupt):
        gc(".em/store", 0, False, None, refuse)
    assert len(list(Path(".em/store/objects").glob("??/*"))) == 2


def test_gc_keeps_what_is_added_after_it_has_said_what_goes() -> None:
    em.create_artifact("gone").add_dir("a")
    shutil.rmtree(next(Path(".em/artifacts").iterdir()))
    again = em.create_artifact("again")
    plans = []

    def planned(plan: dict[str, int]) -> None:
        plans.append(plan["unreachable_objects"])
        again.add_dir("a")

    counts = _engine.gc(".em/store", 0, False, None, planned)
    assert plans == [2]
    assert (counts["unreachable_objects"], counts["deleted_objects"], counts["freed_bytes"]) == (0, 0, 0)
    for artifact in (again.local, None):
        assert list(_engine.verify(".em/store", artifact)["problems"]) == []


def test_gc_reads_a_manifest_twice(directory: Path) -> None:
    """Before and after it condemns; it was three times."""
    em.create_artifact("x").add_dir("a")
    log = Path("strace")
    command = [sys.executable, "-m", "t9k.em", "gc"]
    subprocess.run(["strace", "-f", "-qq", "-e", "trace=openat", "-o", log, *command], check=True, capture_output=True)
    opened = re.findall(r'"[^"]*/\.artifact(/manifest-\d+)?"', log.read_text())
    assert len([name for name in opened if name]) == 2


@pytest.mark.parametrize(
    ("paths", "obj_path", "entries"),
    [
        (["a"], None, ["a/1.txt", "a/2.bin"]),
        (["a"], "b", ["b/1.txt", "b/2.bin"]),
        (["a"], "b/", ["b/a/1.txt", "b/a/2.bin"]),
        (["a/"], "b/c/", ["b/c/a/1.txt", "b/c/a/2.bin"]),
        (["a/1.txt"], None, ["1.txt"]),
        (["a/1.txt"], "b", ["b"]),
        (["a/1.txt"], "b/c.txt", ["b/c.txt"]),
        (["a/1.txt"], "b/", ["b/1.txt"]),
        (["a/1.txt", "a/2.bin"], "b/", ["b/1.txt", "b/2.bin"]),
        (["a", "a/1.txt"], "b/c/", ["b/c/1.txt", "b/c/a/1.txt", "b/c/a/2.bin"]),
        (["./a/../a"], "b/", ["b/a/1.txt", "b/a/2.bin"]),
        (["a", "a"], "b", ["b/1.txt", "b/2.bin"]),
    ],
)
def test_add_to_a_path(run, paths: list[str], obj_path: str | None, entries: list[str]) -> None:
    code, local = run("add", *paths, *([] if obj_path is None else ["--path", obj_path]))
    assert code == 0
    assert [entry["path"] for entry in em.load_artifact(local.strip()).objects] == entries


@pytest.mark.parametrize(
    ("paths", "obj_path", "said"),
    [
        (["a"], "../b", '"../b/1.txt" is not normalized'),
        (["a"], "b/../../c", '"b/../../c/1.txt" is not normalized'),
        (["a"], ".", '"./1.txt" is not normalized'),
        (["a"], "/b", '"/b/1.txt" is absolute'),
        (["a"], "/", '"/a/1.txt" is absolute'),
        (["a/1.txt"], ".artifact", '".artifact" is reserved'),
        (["a/1.txt"], ".artifact/", '".artifact/1.txt" is reserved'),
        (["a/1.txt"], "b//c", '"b//c" has an empty component'),
        (["a/1.txt"], "b/" + "c" * 256, "bytes"),
    ],
)
def test_add_to_a_wrong_path_makes_no_artifact(
    paths: list[str], obj_path: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["add", *paths, "--path", obj_path])
    captured = capsys.readouterr()
    assert (exit_info.value.code, captured.out) == (1, "")
    assert said in captured.err
    assert list(Path(".em/artifacts").iterdir()) == []


@pytest.mark.parametrize(
    ("paths", "obj_path", "said"),
    [
        (["a/1.txt", "a/2.bin"], "b", "a/1.txt and a/2.bin would both be b; a --path that ends in / keeps their names"),
        (["a", "a/1.txt"], "b", "a and a/1.txt would both be b; a --path that ends in / keeps their names"),
        (["a", "b/a"], "c/", "a and b/a would both be c/a\n"),
        (["a/1.txt", "b/a/1.txt"], None, "a/1.txt and b/a/1.txt would both be 1.txt\n"),
    ],
)
def test_add_of_two_to_one_path_is_a_wrong_call(
    paths: list[str], obj_path: str | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second replaced what the first had added."""
    shutil.copytree("a", "b/a")
    with pytest.raises(SystemExit) as exit_info:
        main(["add", *paths, *([] if obj_path is None else ["--path", obj_path])])
    captured = capsys.readouterr()
    assert (exit_info.value.code, captured.out) == (2, "")
    assert said in captured.err
    assert not Path(".em").exists()


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


def test_ls_prints_entries_as_json_one_by_one(run, capsys: pytest.CaptureFixture[str]) -> None:
    local = run("add", "a", "--name", "x")[1].strip()
    assert run("ls", "--json", local) == (0, json.dumps(em.load_artifact(local).objects, ensure_ascii=False) + "\n")
    assert run("ls", "--json", em.create_artifact("empty").local) == (0, "[]\n")

    def rows():
        yield "first"
        assert capsys.readouterr().out == '["first"'
        yield "second"

    echo_json_rows(rows())
    assert capsys.readouterr().out == ', "second"]\n'


def test_du_tells_apparent_stored_unique_and_shared_bytes(run) -> None:
    first, second = em.create_artifact("first"), em.create_artifact("second")
    first.add_dir("a")
    first.add_file("a/1.txt", "again")
    second.add_file("a/1.txt")
    size = 3 << 20

    def sizes(*artifacts: str) -> dict[str, tuple[int, ...]]:
        rows = json.loads(run("du", *artifacts, "--json")[1])
        fields = [f"{field}_bytes" for field in ("apparent", "stored", "unique", "shared")]
        return {os.path.basename(row["artifact"]): tuple(row[field] for field in fields) for row in rows}

    of_first, of_second = (size + 6, size + 3, size, 3), (3, 3, 0, 3)
    both = {first.alternative_name: of_first, second.alternative_name: of_second}
    assert sizes() == both | {"total": (size + 9, size + 3, size, 3)}
    # Who is named is compared with all the same, under any name.
    assert sizes("first") == {first.alternative_name: of_first, "total": of_first}
    assert sizes(second.local) == {second.alternative_name: of_second, "total": of_second}
    assert sizes("first", "first") == sizes("first")
    header, row, *_ = run("du")[1].splitlines()
    assert header.split() == ["apparent", "stored", "unique", "shared", "artifact"]
    assert row.split() == ["3.0", "MiB", "3.0", "MiB", "3.0", "MiB", "3", "B", first.alternative_name]


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


def test_hash_goes_on_after_what_it_cannot_read(run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("a/1.link").symlink_to("nowhere")
    digest = blake3.blake3(b"one").hexdigest()
    for options, said in [((), f"{digest}  a/1.txt\n"), (("--json",), '{"a/1.txt": ')]:
        with pytest.raises(SystemExit) as exit_info:
            main(["hash", "a", *options])
        captured = capsys.readouterr()
        assert exit_info.value.code == 1
        assert captured.out.startswith(said)
        assert "a/2.bin" in captured.out
        first, second = captured.err.splitlines()
        assert first.startswith("Error: cannot open a/1.link")
        assert second == "Error: 1 file could not be hashed"


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

"""Run config file: wrong keys, wrong types and hostile YAML."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from t9k.em.errors import InvalidInputError, NotFoundError
from t9k.em.run_config import read_run_config
from t9k.em.run_files import MAX_YAML_BYTES, make_run_dir, read_yaml, write_yaml


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "run_config.yaml"


def test_every_documented_key_is_read(config: Path) -> None:
    config.write_text(
        "name: cnn\nhparams:\n  lr: 0.1\nlabels:\n- Keras\ndescription: d\nauto_upload: true\n"
        "folder: f\nmake_folder: false\nconflict_strategy: replace\n"
    )
    assert read_run_config(str(config)) == {
        "name": "cnn",
        "hparams": {"lr": 0.1},
        "labels": ["Keras"],
        "description": "d",
        "auto_upload": True,
        "folder": "f",
        "make_folder": False,
        "conflict_strategy": "replace",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nhparam: {}\n", r"run_config\.yaml:2: unknown key 'hparam'; did you mean 'hparams'"),
        ("name: a\n\nlabels: x\n", r"run_config\.yaml:3: labels must be a list of texts"),
        ("name: a\nname: b\n", ":2: key 'name' is there twice"),
        ("conflict_strategy: merge\n", "skip, error, new or replace"),
        ("- a\n", "a mapping"),
        ("? [a]\n: b\n", "unknown key"),
        ("name: [\n", "not valid YAML"),
        ("hparams: !!python/object/apply:os.getcwd []\n", ":1: could not determine a constructor"),
        ("hparams:\n  a: &a [1]\n  b: [*a, *a]\n", r":3: alias \*a is not supported"),
        ("hparams: " + "[" * 5000 + "\n", ":1: nested more than 100 levels"),
        ("hparams: {1: a, '1': b}\n", ":1: hyperparameter 'hparams' has two keys that both read '1'"),
        ("a: 1\n---\nb: 2\n", ":2: not valid YAML"),
        ("name: a\nhparams:\n  key: !!binary aGVsbG8=\n", ":2: hyperparameter 'hparams.key' has a value of type bytes"),
        ("name: a\nhparams:\n  n: " + "1:" * 100_000 + "1\n", ":3: number of 200001 characters"),
        ("hparams: {<<: [1]}\n", ":1: expected a mapping for merging"),
        ("hparams: {[1]: 2}\n", ":1: found unhashable key"),
        ("labels: [1]\n", ":1: labels must be a list of texts"),
        ("labels: [null]\n", "labels must be a list of texts"),
        ("name: a/b\n", ":1: name 'a/b' cannot name a directory"),
        ("name: [a]\n", ":1: name must be text"),
        ("name: 3\n", ":1: name must be text, not '3'"),
        ("name:\n", ":1: name must be text"),
        ("hparams: [a]\n", ":1: hparams must be a mapping"),
        ("hparams: 1\n", ":1: hparams must be a mapping"),
        ("description: [a]\n", ":1: description must be text"),
        ("auto_upload: 'yes'\n", ":1: auto_upload must be true or false"),
        ("auto_upload: 1\n", ":1: auto_upload must be true or false"),
        ("folder: 1\n", ":1: folder must be text"),
        ("make_folder: maybe\n", ":1: make_folder must be true or false"),
        ("conflict_strategy: [new]\n", ":1: conflict_strategy must be skip, error, new or replace"),
        ("Name: a\n", "did you mean 'name'"),
        ("hyperparams: {}\n", "did you mean 'hparams'"),
        ("label: []\n", "did you mean 'labels'"),
        ("desc: a\n", "did you mean 'description'"),
        ("autoupload: true\n", "did you mean 'auto_upload'"),
        ("folders: a\n", "did you mean 'folder'"),
        ("makefolder: true\n", "did you mean 'make_folder'"),
        ("conflict-strategy: new\n", "did you mean 'conflict_strategy'"),
    ],
)
def test_wrong_config_names_file_line_and_way_out(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_run_config(str(config))


def test_empty_missing_and_huge_files(config: Path) -> None:
    with pytest.raises(NotFoundError):
        read_run_config(str(config))
    config.write_text("")
    assert read_run_config(str(config)) == {}
    for size_bytes in (MAX_YAML_BYTES + 1, 1 << 30):
        with config.open("wb") as file:
            file.truncate(size_bytes)
        with pytest.raises(InvalidInputError, match="larger"):
            read_run_config(str(config))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a: [" + b"[]," * 200_000 + b"]", "more than 200000 keys and values"),
        (b"".join(b" " * depth + b"a:\n" for depth in range(200)), ":101: nested more than 100 levels"),
        (b"a: " + b"1" * 100_000, ":1: number of 100000 characters"),
        (b"a: 2020-99-99", "month must be in"),
        (b"a: \xff\xfe", "not valid YAML"),
        (bytes(range(256)), "not valid YAML"),
        (b"- 1", "a mapping of keys"),
    ],
)
def test_hostile_yaml_is_refused_before_it_costs_memory(config: Path, data: bytes, message: str) -> None:
    config.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInputError, match=message):
            read_yaml(str(config))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 32 << 20


def test_write_yaml_replaces_and_leaves_no_temporary(config: Path) -> None:
    for value in ({"a": 1}, {"text": "é😀\n"}):
        write_yaml(str(config), value)
        assert read_yaml(str(config)) == value
    assert [path.name for path in config.parent.iterdir()] == [config.name]


def test_run_directories_are_unique_and_named_as_documented(tmp_path: Path) -> None:
    made = {make_run_dir(str(tmp_path / "runs"), "n")[1] for _ in range(200)}
    assert len(made) == 200
    for name in made:
        _, date, time, letters = name.split("_")
        assert (len(date), len(time), len(letters)) == (6, 6, 6)

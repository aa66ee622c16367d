"""Run config file: wrong keys, wrong types and hostile YAML."""

from __future__ import annotations

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
        ("hparams: " + "[" * 5000 + "\n", "nested|not valid"),
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
    with config.open("wb") as file:
        file.truncate(MAX_YAML_BYTES + 1)
    with pytest.raises(InvalidInputError, match="larger"):
        read_run_config(str(config))


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

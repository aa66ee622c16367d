"""The names of the API reference; their signatures are in test_reference.py."""

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest
from t9k import CONFIG, em
from t9k.em.errors import AuthError, InvalidInputError, NotFoundError


def test_public_names_are_those_of_the_reference() -> None:
    functions = {"create_artifact", "create_run", "load_artifact", "load_run", "login", "logout", "upload"}
    assert set(em.__all__) == functions | {"Artifact", "Params", "Run"}


def test_no_module_takes_the_place_of_a_public_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(em.__path__)}
    assert not modules & set(em.__all__)
    assert set(em.__all__) <= set(dir(em))
    with pytest.raises(AttributeError, match="no attribute 'creat_run'"):
        em.creat_run  # noqa: B018


def test_import_is_small_until_a_name_is_used() -> None:
    code = "import sys, t9k; from t9k import em; print(*sys.modules); em.Run; t9k.CONFIG; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = (set(line.split()) for line in done.stdout.splitlines())
    assert not before & {"t9k.em.run", "t9k.config", "typing", "threading"}
    assert {"t9k.em.run", "t9k.config"} <= after
    assert not after & {"requests", "numpy", "yaml", "click", "tqdm"}


def test_functions_of_the_server_say_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("aistore_host", "api_key"):
        monkeypatch.setitem(CONFIG, name, None)
    with pytest.raises(AuthError, match="no API key"):
        em.login("http://127.0.0.1:1")
    em.logout()
    with pytest.raises(AuthError, match="not logged in"):
        em.Artifact({"name": "a", "local": str(tmp_path)}).upload()
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(NotFoundError):
            em.upload(str(path))
    with pytest.raises(InvalidInputError, match="overwrite"):
        em.upload(str(tmp_path), conflict_strategy="overwrite")

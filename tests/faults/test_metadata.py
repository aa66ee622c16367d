"""Whatever `metadata.json` says, an artifact loads whole or is refused with a typed error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from t9k import em
from t9k.em.errors import InvalidInputError

from .conftest import POINTS

FIELDS = ("name", "labels", "description", "created_timestamp", "alternative_name", "remote", "local", "objects")
WHOLE = {
    "name": "größe",
    "labels": ["a", "b"],
    "description": "two\nlines",
    "created_timestamp": "2026-01-01T00:00:00+00:00",
    "alternative_name": "größe_260101_000000_abcdef",
    "remote": [{"address": "https://example.org"}],
}

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
CHANGED = st.dictionaries(st.sampled_from(FIELDS), ANYTHING, max_size=2).map(lambda changes: WHOLE | changes)
TEXTS = (CHANGED | ANYTHING).map(lambda value: json.dumps(value).encode())


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    text = bytearray(json.dumps(WHOLE, ensure_ascii=draw(st.booleans())).encode())
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        text[at : at + draw(st.integers(0, 9))] = draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"[", b"{", b"\\u"])
        )
    return bytes(text)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("metadata"))
        return Path(em.create_artifact("x").local)


@settings(max_examples=20 * POINTS, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXTS | edited() | st.binary(max_size=40))
@example(text=b"[" * 200_000)
@example(text=b'{"name":' * 200_000)
@example(text=b'{"name": ' + b"1" * 5000 + b"}")
@example(text=b'{"name": "a", "labels": "abc"}')
@example(text=b'{"name": "a", "labels": [1]}')
@example(text=b'{"name": "\\ud800"}')
def test_metadata(local: Path, text: bytes) -> None:
    Path(local, ".artifact/metadata.json").write_bytes(text)
    try:
        artifact = em.load_artifact(str(local))
    except InvalidInputError:
        return
    data = artifact.to_dict()
    assert em.Artifact(data["metadata"], data["objects"]).to_dict() == data
    assert data["metadata"]["local"] == str(local)
    assert [type(data["metadata"][name]) for name in WHOLE] == [type(value) for value in WHOLE.values()]
    artifact._repr_html_().encode()
    repr(artifact).encode()
    json.dumps(data).encode()

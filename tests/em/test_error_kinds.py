"""Kinds of errors are the same in the engine, in Python and in the server's JSON."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from t9k import em, protocol
from t9k.aistore.api import problems
from t9k.em import _engine, errors
from t9k.em.client.problems import Problem
from t9k.em.errors import EmError, translated

TREE = {error.kind: error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, EmError)}


def test_engine_python_and_protocol_have_the_same_kinds() -> None:
    assert set(_engine.ERROR_KINDS) - {"cancelled"} == set(errors.ENGINE_ERRORS)
    assert "cancelled" in _engine.ERROR_KINDS  # which is KeyboardInterrupt
    assert errors.ENGINE_ERRORS.items() <= TREE.items()
    assert TREE.keys() == protocol.KINDS.keys() == problems._TITLES.keys()
    assert len(TREE) == len({error.__name__ for error in TREE.values()}) == 8


@pytest.mark.parametrize("kind", sorted(protocol.KINDS))
def test_kind_of_a_problem_document_is_that_of_the_error(kind: str) -> None:
    document = {"kind": kind, "detail": "what happened", "hint": "what to do"}
    error = Problem(protocol.KINDS[kind], json.dumps(document).encode()).error("cannot upload x")
    # A defect of the server has no group of its own for its clients.
    assert type(error) is (errors.TransferError if kind == "error" else TREE[kind])
    assert (str(error), error.hint) == ("cannot upload x: what happened (hint: what to do)", "what to do")


def _conflict(local: str) -> None:
    other = em.create_artifact("other")
    other.add_reference("s3://bucket/x")
    _engine.materialize(".em/store", other.local, _engine.read_manifest(local))


RAISING: dict[str, Callable[[str], object]] = {
    "invalid_input": lambda local: _engine.add_reference(local, "../x", "s3://bucket/x"),
    "not_found": lambda local: _engine.read_entries("nowhere"),
    "conflict": _conflict,
    "integrity": lambda local: _engine.parse_manifest(b"no manifest"),
    "store": lambda local: _engine.hash_file("."),
}


@pytest.mark.usefixtures("directory")
@pytest.mark.parametrize("kind", sorted(errors.ENGINE_ERRORS))
def test_what_the_engine_raises_becomes_the_error_of_its_kind(kind: str) -> None:
    local = em.create_artifact("x").local
    with pytest.raises(_engine.EngineError) as engine_error:
        RAISING[kind](local)
    assert engine_error.value.kind == kind
    with pytest.raises(TREE[kind]) as error, translated():
        raise engine_error.value
    assert type(error.value) is TREE[kind]
    assert str(error.value).startswith(engine_error.value.message)
    assert error.value.hint == engine_error.value.hint

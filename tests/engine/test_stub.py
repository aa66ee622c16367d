"""`_engine.pyi` says what the compiled module has: names, parameters, defaults and the first sentence of each."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
from t9k.em import _engine

STUB = Path(_engine.__file__).with_name("_engine.pyi")
TREE = ast.parse(STUB.read_text())
FUNCTIONS = {node.name: node for node in TREE.body if isinstance(node, ast.FunctionDef)}
CLASSES = {node.name: node for node in TREE.body if isinstance(node, ast.ClassDef) and node.name != "EngineError"}
METHODS = {
    f"{name}.{node.name}": node for name, of in CLASSES.items() for node in of.body if isinstance(node, ast.FunctionDef)
}


def found(name: str) -> object:
    value: object = _engine
    for part in name.split("."):
        value = inspect.getattr_static(value, part)
    return value


def first_sentence(node: ast.FunctionDef | ast.ClassDef) -> str | None:
    documented = ast.get_docstring(node)
    return documented.splitlines()[0] if documented else None


def test_names_of_module_and_classes_equal_stub() -> None:
    assert {name for name in vars(_engine) if not name.startswith("__")} == {
        *FUNCTIONS,
        *CLASSES,
        "EngineError",
        "ERROR_KINDS",
    }
    for name in CLASSES:
        inherited = set(dir(object))
        own = {f"{name}.{member}" for member in vars(getattr(_engine, name)) if member not in inherited}
        own.discard(f"{name}.__module__")
        described = {method for method in METHODS if method.startswith(f"{name}.")} - {f"{name}.__new__"}
        assert own == described


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES, *METHODS])
def test_first_sentence_equals_stub(name: str) -> None:
    expected = first_sentence({**FUNCTIONS, **CLASSES, **METHODS}[name])
    if name.rpartition(".")[2].startswith("__"):
        assert expected is None
    else:
        assert expected == (getattr(found(name), "__doc__", None) or "").splitlines()[0]


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_parameters_equal_stub(name: str) -> None:
    of, _, method = name.rpartition(".")
    node = {**FUNCTIONS, **METHODS}[name]
    if any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list):
        assert inspect.isdatadescriptor(found(name))
        return
    if method in ("__len__", "__exit__"):  # Slots, whose parameters the interpreter fixes.
        return
    # A class has the signature of its `__new__`.
    signature = inspect.signature(getattr(_engine, of) if method == "__new__" else found(name))  # type: ignore[arg-type]
    names = [argument.arg for argument in node.args.args]
    defaults = [ast.literal_eval(default) for default in node.args.defaults]
    parameters = list(signature.parameters.values())
    if method == "__new__":
        names = names[1:]
    assert [parameter.name for parameter in parameters] == names
    given = [parameter.default for parameter in parameters if parameter.default is not inspect.Parameter.empty]
    assert given == defaults

"""Params: the reference's contract, conversion of values, and its errors."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from t9k.em.errors import InvalidInputError
from t9k.em.params import Params


class _Counter:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


class _Colour(enum.StrEnum):
    RED = "red"


@dataclasses.dataclass
class _Optimizer:
    name: str
    betas: tuple[float, float]


@pytest.fixture
def uploads() -> _Counter:
    return _Counter()


@pytest.fixture
def params(uploads: _Counter) -> Params:
    return Params(uploads, {"batch_size": 32})


def test_init_hparams_does_not_upload(params: Params, uploads: _Counter) -> None:
    assert dict(params) == {"batch_size": 32}
    assert uploads.calls == 0


def test_item_and_attribute_assignment_upload_each(params: Params, uploads: _Counter) -> None:
    params["batch_size"] = 64
    params.epochs = 10
    assert params.batch_size == 64
    assert params["epochs"] == 10
    assert uploads.calls == 2
    del params.epochs
    del params["batch_size"]
    assert not params
    assert uploads.calls == 4


def test_update_override_false_keeps_what_is_there(params: Params, uploads: _Counter) -> None:
    params.update({"batch_size": 1, "epochs": 2}, override=False)
    assert dict(params) == {"batch_size": 32, "epochs": 2}
    params.update({"batch_size": 1, "lr": 0.1})
    assert params.to_dict() == {"batch_size": 1, "epochs": 2, "lr": 0.1}
    assert uploads.calls == 2


def test_update_with_a_bad_value_changes_nothing(params: Params, uploads: _Counter) -> None:
    with pytest.raises(InvalidInputError, match=r"model\.layers\[1\]"):
        params.update({"batch_size": 1, "model": {"layers": [1, object()]}})
    assert dict(params) == {"batch_size": 32}
    assert uploads.calls == 0


def test_keys_that_shadow_methods_work_as_items(params: Params) -> None:
    params["items"] = 3
    params["update"] = 4
    params["_values"] = 5
    assert (params["items"], params["update"], params["_values"]) == (3, 4, 5)
    assert callable(params.items)
    with pytest.raises(InvalidInputError, match="items"):
        params.items = 3  # type: ignore[method-assign,assignment]
    with pytest.raises(InvalidInputError, match="_values"):
        params._values = {}


def test_missing_names_raise_what_python_expects(params: Params) -> None:
    assert not hasattr(params, "nothing")
    with pytest.raises(KeyError):
        params["nothing"]
    with pytest.raises(AttributeError):
        del params.nothing


def test_argparse_namespace_and_its_dict_are_accepted(params: Params) -> None:
    args = argparse.Namespace(lr=0.1, out=Path("a/b"))
    params.update(args)
    assert params.to_dict() == {"batch_size": 32, "lr": 0.1, "out": "a/b"}
    params.update(args.__dict__)
    params["args"] = args
    assert params["args"] == {"lr": 0.1, "out": "a/b"}


def _fake_torch_dtype() -> object:
    kind: Any = type("dtype", (), {"__repr__": lambda self: "torch.float32"})
    kind.__module__ = "torch"
    return kind()


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: None, None),
        (lambda: True, True),
        (lambda: (1, 2), [1, 2]),
        (lambda: {"b", "a"}, ["a", "b"]),
        (lambda: _Colour.RED, "red"),
        (lambda: Path("x"), "x"),
        (lambda: _Optimizer("adam", (0.9, 0.99)), {"name": "adam", "betas": [0.9, 0.99]}),
        (lambda: {1: "one"}, {"1": "one"}),
        (_fake_torch_dtype, "float32"),
    ],
)
def test_values_are_converted_predictably(params: Params, make: Callable[[], object], expected: object) -> None:
    params["value"] = make()
    assert params["value"] == expected
    assert type(params["value"]) is type(expected)


def test_numpy_scalars_and_dtypes_are_converted(params: Params) -> None:
    numpy = pytest.importorskip("numpy")
    params.update({"lr": numpy.float32(0.5), "n": numpy.int64(3), "flag": numpy.bool_(True)})
    params.update({"dtype": numpy.dtype("float32"), "kind": numpy.float16, "f": numpy.float64(2.0)})
    plain = params.to_dict()
    assert plain["lr"] == 0.5
    assert plain["flag"] is True
    assert plain["dtype"] == "float32"
    assert plain["kind"] == "float16"
    assert type(plain["f"]) is float
    assert type(plain["n"]) is int
    with pytest.raises(InvalidInputError, match="weights"):
        params["weights"] = numpy.zeros(3)


def test_cycles_and_clashing_keys_are_refused(params: Params) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(InvalidInputError, match="contains itself"):
        params["cycle"] = cycle
    with pytest.raises(InvalidInputError, match="two keys"):
        params["clash"] = {1: 1, "1": 2}
    with pytest.raises(InvalidInputError, match="must be a dict"):
        params.update([1])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="keys are text"):
        params["deep"] = {(1, 2): 3}
    with pytest.raises(InvalidInputError, match="Unicode"):
        params["text"] = "\ud800"


def test_stored_values_do_not_follow_later_changes(params: Params) -> None:
    layers = [1, 2]
    params["layers"] = layers
    layers.append(3)
    copy = params.to_dict()
    copy["layers"].append(4)
    assert params["layers"] == [1, 2]


def test_clear_uploads_once(params: Params, uploads: _Counter) -> None:
    params["a"] = 1
    params.clear()
    assert len(params) == 0
    assert uploads.calls == 2


def test_parse_tf_strategy_records_replicas(params: Params) -> None:
    class MirroredStrategy:
        num_replicas_in_sync = 2

    params.parse(dist_tf_strategy=MirroredStrategy())
    assert params["dist"] == {"framework": "tensorflow", "strategy": "MirroredStrategy", "num_replicas_in_sync": 2}


def test_parse_torch_model_records_devices_and_world(params: Params) -> None:
    class DataParallel:
        device_ids = (0, 1)

    class DistributedDataParallel:
        device_ids = None
        process_group = SimpleNamespace(size=lambda: 4)

    params.parse(dist_torch_model=DataParallel())
    assert params["dist"] == {"framework": "torch", "strategy": "DataParallel", "device_ids": [0, 1]}
    params.parse(dist_torch_model=DistributedDataParallel())
    assert params["dist"]["world_size"] == 4


def test_parse_horovod_records_size(params: Params) -> None:
    params.parse(dist_hvd=SimpleNamespace(__name__="horovod.torch", size=lambda: 8))
    assert params["dist"] == {"framework": "horovod", "strategy": "horovod.torch", "size": 8}


@pytest.mark.parametrize("name", ["dist_tf_strategy", "dist_torch_model", "dist_hvd"])
def test_parse_of_something_else_names_the_argument(params: Params, name: str) -> None:
    with pytest.raises(InvalidInputError, match=name):
        params.parse(**{name: object()})


def test_params_needs_no_framework() -> None:
    module = sys.modules["t9k.em.params"]
    assert not {"numpy", "torch", "yaml"} & set(vars(module))

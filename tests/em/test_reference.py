"""What the API reference and the manual say of runs, artifacts and hyperparameters, one test each.

The headings are the reference's entries; a docstring says in our words what is
promised there. The remote halves are tested with the server.
"""

from __future__ import annotations

import argparse
import inspect
import os
import re
from collections.abc import Callable, MutableMapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from t9k import em
from t9k.em import errors

TAIL = "folder: str = 'default', make_folder: bool = False, conflict_strategy: str = 'new'"
LOCAL = "str | os.PathLike[str]"  # the reference says str
SIGNATURES: dict[Callable[..., Any], str] = {
    em.Artifact: "metadata, objects = None",
    em.Artifact.add_dir: f"self, dir_path: {LOCAL}, obj_path: str | None = None",
    em.Artifact.add_file: f"self, file_path: {LOCAL}, obj_path: str | None = None",
    em.Artifact.add_reference: "self, uri: str, obj_path: str | None = None, *, size: int | None = None, "
    "etag: str | None = None, digest: str | None = None",
    em.Artifact.parse_from_dict: "self, data: dict[str, Any]",
    em.Artifact.to_dict: "self",
    em.Artifact.upload: f"self, {TAIL}",
    em.Params: "upload, init_hparams = None",
    em.Params.parse: "self, dist_tf_strategy = None, dist_torch_model = None, dist_hvd = None",
    em.Params.update: "self, new_params, override: bool = True",
    em.Run: "metadata, hparams = None, metrics = None, platform = None, git = None",
    em.Run.finish: "self, *args, **kwargs",
    em.Run.log: "self, type: str, metrics, step: int, epoch: int | None = None",
    em.Run.mark_input: "self, resource",
    em.Run.mark_output: "self, resource",
    em.Run.parse_from_dict: "self, data: dict[str, Any]",
    em.Run.to_dict: "self",
    em.Run.upload: f"self, {TAIL}",
    em.create_artifact: "name: str, labels: Sequence[str] | None = None, description: str = ''",
    em.create_run: f"config_path: {LOCAL} | None = None, name: str = 'default', hparams: dict[str, Any] | None = None, "
    f"labels: Sequence[str] | None = None, description: str = '', auto_upload: bool = False, {TAIL}",
    em.load_artifact: f"path: {LOCAL}",
    em.load_run: f"path: {LOCAL}, auto_upload: bool = False, {TAIL}",
    em.login: "ais_host: str | None = None, api_key: str | None = None, timeout: int | None = None",
    em.logout: "",
    em.upload: f"path: {LOCAL}, {TAIL}",
}
HPARAMS = {
    "batch_size": 32,
    "epochs": 1,
    "learning_rate": 0.001,
    "conv_channels1": 32,
    "conv_channels2": 64,
    "conv_channels3": 64,
    "conv_kernel_size": 3,
    "maxpool_size": 2,
    "linear_features1": 64,
}
STAMPED = r"_\d{6}_\d{6}_[a-z0-9]{6}"


@pytest.fixture(autouse=True)
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("EM_RUN_PARENT_DIR", "EM_ARTIFACT_PARENT_DIR", "EM_STORE_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"picture")
    (tmp_path / "1.png").write_bytes(b"picture")
    return tmp_path


@pytest.fixture
def run() -> em.Run:
    return em.create_run(name="cnn_keras", hparams=HPARAMS, labels=["Keras"], description="digits")


@pytest.fixture
def artifact() -> em.Artifact:
    return em.create_artifact(name="logs", labels=["tb"], description="d")


def _yaml(run: em.Run, name: str) -> Any:
    return yaml.safe_load(Path(run.local, name).read_text())


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_signature_names_kinds_and_defaults(function: Callable[..., Any]) -> None:
    """Every function and method has the reference's arguments, in its order, with its types and defaults."""
    space: dict[str, Any] = {}
    exec(f"from __future__ import annotations\ndef promised({SIGNATURES[function]}): ...", space)
    promised = inspect.signature(space["promised"]).parameters.values()
    found = inspect.signature(function).parameters.values()
    assert [(one.name, one.kind, one.default) for one in found] == [
        (one.name, one.kind, one.default) for one in promised
    ]
    for one, other in zip(found, promised, strict=True):
        assert other.annotation in (one.annotation, inspect.Parameter.empty)


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__qualname__)
def test_help_says_what_it_does_and_each_argument(function: Callable[..., Any]) -> None:
    """`help()` is enough to use a function."""
    text = inspect.getdoc(function) or ""
    if isinstance(function, type):
        text += "\n" + (inspect.getdoc(function.__init__) or "")
    assert re.match(r"[A-Z][^\n]{10,}", text)
    names = [name for name in inspect.signature(function).parameters if name not in ("self", "args", "kwargs")]
    for name in names:
        assert re.search(rf"^ +{name}: ", text, re.MULTILINE) or f"``{name}``" in text, name


# Artifact


def test_artifact_attributes(artifact: em.Artifact, workdir: Path) -> None:
    """An Artifact has name, labels, description, created_timestamp, alternative_name, objects, remote, local."""
    assert (artifact.name, artifact.labels, artifact.description) == ("logs", ["tb"], "d")
    assert re.match(r"\d{4}-\d\d-\d\dT", artifact.created_timestamp)
    assert re.fullmatch("logs" + STAMPED, artifact.alternative_name)
    assert artifact.remote == []
    assert artifact.local == str(workdir / ".em" / "artifacts" / artifact.alternative_name)


def test_artifact_objects_are_a_list_of_texts(artifact: em.Artifact) -> None:
    """`objects` is a list of dicts from text to text."""
    artifact.add_file("1.png")
    artifact.add_reference("s3://bucket/data.csv")
    assert [entry["path"] for entry in artifact.objects] == ["1.png", "data.csv"]
    for entry in artifact.objects:
        assert all(type(key) is str and type(value) is str for key, value in entry.items())


def test_artifact_constructor_takes_objects_as_a_dict_of_dicts(artifact: em.Artifact) -> None:
    """The constructor takes metadata, and objects as a dict from path to a dict."""
    artifact.add_file("1.png")
    data = artifact.to_dict()
    copy = em.Artifact(data["metadata"], data["objects"])
    assert copy.objects == artifact.objects
    in_memory = em.Artifact({"name": "memory"}, {"a.bin": {"type": "file", "size": 3}})
    assert in_memory.objects == [{"path": "a.bin", "type": "file", "size": "3"}]
    assert in_memory.local == ""


@pytest.mark.parametrize(
    ("obj_path", "file"), [(None, "a/1.png"), ("a", "a/1.png"), ("b/", "b/a/1.png"), ("b/a", "b/a/1.png")]
)
def test_artifact_add_dir_paths(artifact: em.Artifact, obj_path: str | None, file: str) -> None:
    """A directory is copied to its own name, to `obj_path`, or below an `obj_path` that ends in a slash."""
    artifact.add_dir(dir_path="a/", obj_path=obj_path)
    assert Path(artifact.local, file).read_bytes() == b"picture"


@pytest.mark.parametrize(
    ("obj_path", "file"), [(None, "1.png"), ("1.png", "1.png"), ("a/", "a/1.png"), ("a/1.png", "a/1.png")]
)
def test_artifact_add_file_paths(artifact: em.Artifact, obj_path: str | None, file: str) -> None:
    """A file is copied to its own name, to `obj_path`, or below an `obj_path` that ends in a slash."""
    artifact.add_file(file_path="1.png", obj_path=obj_path)
    assert Path(artifact.local, file).read_bytes() == b"picture"


def test_artifact_add_reference(artifact: em.Artifact) -> None:
    """A URI becomes an object that refers to it."""
    artifact.add_reference("s3://bucket/x", obj_path="data/x")
    (entry,) = artifact.objects
    assert (entry["path"], entry["type"], entry["uri"]) == ("data/x", "reference", "s3://bucket/x")


def test_artifact_to_dict_and_parse_from_dict(artifact: em.Artifact) -> None:
    """A dict of an Artifact parses back to it."""
    artifact.add_dir("a")
    other = em.create_artifact("other")
    other.parse_from_dict(artifact.to_dict())
    assert other.to_dict() == artifact.to_dict()


def test_artifact_parent_dir(monkeypatch: pytest.MonkeyPatch, workdir: Path) -> None:
    """EM_ARTIFACT_PARENT_DIR says where artifacts go; .em/artifacts by default."""
    monkeypatch.setenv("EM_ARTIFACT_PARENT_DIR", "elsewhere")
    assert Path(em.create_artifact("x").local).parent == workdir / "elsewhere"


def test_load_artifact(artifact: em.Artifact) -> None:
    """Loads from the local directory first; a path that is nowhere is a RuntimeError."""
    artifact.add_file("1.png")
    assert em.load_artifact(path=artifact.local).to_dict() == artifact.to_dict()
    with pytest.raises(RuntimeError):
        em.load_artifact(path="nowhere")


# Params


def test_params_is_a_mutable_mapping() -> None:
    """Params is a MutableMapping with items, keys and values."""
    params = em.Params(upload=lambda: None, init_hparams=dict(HPARAMS))
    assert isinstance(params, MutableMapping)
    assert dict(params.items()) == HPARAMS
    assert list(params.keys()) == list(HPARAMS)
    assert list(params.values()) == list(HPARAMS.values())
    params.setdefault("epochs", 5)
    del params["epochs"]
    assert "epochs" not in params
    assert params.pop("batch_size") == 32
    assert params.get("nothing", 1) == 1


def test_params_views_follow_it_and_are_set_like() -> None:
    """`items()` and `keys()` are set-like views, `values()` is a view."""
    params = em.Params(upload=lambda: None, init_hparams={"a": 1, "b": 2})
    items, keys, values = params.items(), params.keys(), params.values()
    params.c = 3
    assert keys & {"a", "c", "d"} == {"a", "c"}
    assert items - {("a", 1)} == {("b", 2), ("c", 3)}
    assert list(values) == [1, 2, 3]


def test_params_calls_upload_every_time() -> None:
    """The function `upload` is called each time hyperparameters are updated."""
    calls: list[None] = []
    params = em.Params(upload=lambda: calls.append(None))
    params.update({"a": 1, "b": 2})
    params["a"] = 2
    params.b = 3
    assert len(calls) == 3


def test_params_assignment_like_item_or_attribute(run: em.Run) -> None:
    """A parameter is assigned like an item of a dict or an attribute of an object."""
    run.params["batch_size"] = 64
    run.params.epochs = 10
    assert (run.params.batch_size, run.params["epochs"]) == (64, 10)
    assert _yaml(run, "hyperparameters.yaml") == HPARAMS | {"batch_size": 64, "epochs": 10}


def test_params_update_override(run: em.Run) -> None:
    """`update` overrides what is there, unless `override` is false."""
    run.params.update({"epochs": 2, "new": 1}, override=False)
    assert (run.params["epochs"], run.params["new"]) == (1, 1)
    run.params.update(new_params={"epochs": 2})
    assert run.params["epochs"] == 2


def test_params_types() -> None:
    """Values are text, int, float, bool, None, lists, tuples and dicts, nested."""
    values = {"s": "x", "i": 1, "f": 0.5, "b": True, "n": None, "l": [1, [2]], "t": (1, 2), "d": {"a": {"b": [None]}}}
    assert em.Params(lambda: None, values).to_dict() == values | {"t": [1, 2]}


@pytest.mark.parametrize(
    ("argument", "value", "framework"),
    [
        ("dist_tf_strategy", type("MirroredStrategy", (), {"num_replicas_in_sync": 2})(), "tensorflow"),
        ("dist_torch_model", type("DataParallel", (), {"device_ids": [0]})(), "torch"),
        ("dist_hvd", SimpleNamespace(__name__="horovod.keras", size=lambda: 2), "horovod"),
    ],
)
def test_params_parse(run: em.Run, argument: str, value: object, framework: str) -> None:
    """`parse` takes a tf.distribute strategy, a DP or DDP model, or a Horovod module."""
    run.params.parse(**{argument: value})
    assert _yaml(run, "hyperparameters.yaml")["dist"]["framework"] == framework


# create_run, load_run


def test_create_run_basic(run: em.Run, workdir: Path) -> None:
    """A new Run lies under .em/runs, is Running, and has what it was given."""
    assert Path(run.local) == workdir / ".em" / "runs" / run.alternative_name
    assert (run.name, run.labels, run.description, run.status) == ("cnn_keras", ["Keras"], "digits", "Running")
    assert dict(run.hparams) == HPARAMS
    assert em.create_run().name == "default"


def test_create_run_parent_dir(monkeypatch: pytest.MonkeyPatch, workdir: Path) -> None:
    """EM_RUN_PARENT_DIR says where runs go."""
    monkeypatch.setenv("EM_RUN_PARENT_DIR", "elsewhere")
    assert Path(em.create_run().local).parent == workdir / "elsewhere"


def test_create_run_config_file_takes_precedence(workdir: Path) -> None:
    """Values of the config file win over arguments; what it lacks comes from the arguments."""
    config = {"name": "cnn_keras", "hparams": HPARAMS, "labels": ["Keras"], "description": "Train a simple CNN model."}
    Path("run_config.yaml").write_text(yaml.safe_dump(config))
    run = em.create_run(config_path="./run_config.yaml", name="other", hparams={"a": 1}, labels=["b"], description="c")
    assert (run.name, dict(run.hparams), run.labels, run.description) == tuple(config.values())
    Path("run_config.yaml").write_text("auto_upload: false\nfolder: f\nmake_folder: true\nconflict_strategy: skip\n")
    assert em.create_run(config_path="./run_config.yaml", name="other").name == "other"


def test_create_run_ignores_upload_arguments_without_auto_upload() -> None:
    """With `auto_upload` false, the arguments after it are not used."""
    assert em.create_run(folder="/x/y", make_folder=True, conflict_strategy="replace").status == "Running"


def test_labels_are_any_sequence() -> None:
    """`labels` of a Run and an Artifact are an optional sequence of texts."""
    for made in (em.create_run(labels=("a", "b")), em.create_artifact("x", labels=("a", "b"))):
        assert made.labels == ["a", "b"]
    assert em.create_run().labels == em.create_artifact("x").labels == []


def test_load_run(run: em.Run) -> None:
    """Loads from the local directory first; a path that is nowhere is a RuntimeError."""
    run.log("train", {"loss": 0.5}, step=1)
    run.finish()
    assert em.load_run(path=run.local).to_dict() == run.to_dict()
    with pytest.raises(RuntimeError):
        em.load_run(path="nowhere/folder/run")


# Run


def test_run_attributes(run: em.Run) -> None:
    """A Run has the reference's attributes, of the reference's types."""
    texts = ("name", "description", "start_timestamp", "end_timestamp", "status", "alternative_name", "local")
    assert all(type(getattr(run, name)) is str for name in texts)
    assert run.associations == {"inputs": [], "outputs": []}
    assert run.remote == []
    assert run.params is run.hparams
    run.finish()
    assert run.platform["python"]["version"]
    assert isinstance(run.git, dict)
    assert run.start_timestamp < run.end_timestamp


def test_run_constructor_takes_what_to_dict_gives(run: em.Run) -> None:
    """The constructor takes metadata, hparams, metrics, platform and git."""
    run.log("train", {"loss": 0.5}, step=1)
    run.finish()
    assert em.Run(**run.to_dict()).to_dict() == run.to_dict()


def test_run_to_dict_and_parse_from_dict(run: em.Run) -> None:
    """A dict of a Run parses back to it, and is plain enough for JSON."""
    import json

    run.log("train", {"loss": 0.5}, step=1)
    data = json.loads(json.dumps(run.to_dict()))
    other = em.Run({"name": "other"})
    other.parse_from_dict(data)
    assert other.to_dict() == data


@pytest.mark.parametrize(
    ("alias", "kind"),
    [("train", "train"), ("training", "train"), ("val", "val"), ("validate", "val"), ("validation", "val")]
    + [(name, "test") for name in ("test", "testing", "eval", "evaluate", "evaluation")]
    + [("my type", "my type")],
)
def test_run_log_type_aliases(run: em.Run, alias: str, kind: str) -> None:
    """The standard types have aliases; any other text is its own type."""
    run.log(type=alias, metrics={"loss": 0.5}, step=3, epoch=1)
    assert list(run.metrics) == [kind]
    (point,) = run.metrics[kind]
    assert point["metrics"] == {"loss": 0.5}
    assert (point["at"]["step"], point["at"]["epoch"]) == (3, 1)


def test_run_log_values(run: em.Run) -> None:
    """Values are Python numbers or arrays of one element."""
    numpy = pytest.importorskip("numpy")
    run.log("train", {"a": 1, "b": 0.5, "c": numpy.float32(0.5), "d": numpy.array([[2]])}, step=1)
    assert run.metrics["train"][0]["metrics"] == {"a": 1, "b": 0.5, "c": 0.5, "d": 2}


def test_run_finish_takes_anything(run: em.Run) -> None:
    """`finish` accepts any arguments; the status goes from Running to Complete."""
    run.finish(1, why="whatever")
    assert run.status == "Complete"
    assert em.load_run(run.local).status == "Complete"


ASSETS = [type(name, (), {"name": name.lower()})() for name in ("Model", "Dataset", "Branch", "Tag", "Commit")]


@pytest.mark.parametrize("asset", ASSETS, ids=lambda asset: type(asset).__name__)
def test_run_mark_input_and_output(run: em.Run, artifact: em.Artifact, asset: Any) -> None:
    """Artifacts and the asset hub's Model, Dataset, Branch, Tag and Commit are marked as input or output."""
    run.mark_input(asset)
    run.mark_output(artifact)
    run.mark_output(resource=asset)
    loaded = em.load_run(run.local)
    kind = type(asset).__name__
    assert loaded.associations["inputs"] == [{"type": kind, "name": asset.name}]
    names = [(mark["type"], mark["name"]) for mark in loaded.associations["outputs"]]
    assert names == [("Artifact", artifact.alternative_name), (kind, asset.name)]


# The manual


def test_manual_files_of_a_run(run: em.Run) -> None:
    """index.yaml points to the files of a run by relative paths."""
    for kind in ("train", "val", "test"):
        run.log(kind, {"loss": 0.5}, step=1)
    run.finish()
    index = _yaml(run, "index.yaml")
    assert index == {
        "hyperparameters": "hyperparameters.yaml",
        "metrics": {"train": "metrics/train.yaml", "val": "metrics/val.yaml", "test": "metrics/test.yaml"},
        "platform": "platform.yaml",
        "git": "git.yaml",
        "log": "stdout.log",
    }
    for path in (*index.pop("metrics").values(), *index.values()):
        assert Path(run.local, path).is_file()


def test_manual_alternative_name(run: em.Run) -> None:
    """<name>_<YYMMDD>_<HHMMSS>_<6 lowercase letters or digits> names the directory."""
    assert re.fullmatch("cnn_keras" + STAMPED, run.alternative_name)
    assert os.path.basename(run.local) == run.alternative_name


def test_manual_argparse(run: em.Run) -> None:
    """`run.hparams.update(args.__dict__)` is the usual way in from argparse."""
    args = argparse.Namespace(lr=0.1, out=Path("x"))
    run.hparams.update(args.__dict__)
    assert (run.hparams["lr"], run.hparams["out"]) == (0.1, "x")


def test_manual_data_parallel(monkeypatch: pytest.MonkeyPatch, workdir: Path) -> None:
    """In data-parallel training one rank creates the run; with the helper the same script serves all."""
    from t9k.em.integrations.rank import create_run

    monkeypatch.setenv("RANK", "1")
    create_run(name="ddp").log("train", {"loss": 1.0}, step=1)
    assert not (workdir / ".em").exists()


def test_every_error_is_a_runtime_error() -> None:
    """What the reference raises as a RuntimeError is one, as all our errors are."""
    found = [kind for kind in vars(errors).values() if inspect.isclass(kind) and kind.__module__ == errors.__name__]
    assert len(found) >= 8
    assert all(issubclass(kind, RuntimeError) for kind in found)

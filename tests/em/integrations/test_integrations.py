"""Every integration with stand-ins that have the public attributes of their frameworks."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import types
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from t9k.em.artifact import Artifact
from t9k.em.errors import StoreError
from t9k.em.integrations import framework_base
from t9k.em.integrations.lightgbm import EMCallback as LightGbmCallback
from t9k.em.integrations.lightning import EMLogger
from t9k.em.integrations.optuna import EMCallback as OptunaCallback
from t9k.em.integrations.sklearn import log_estimator
from t9k.em.integrations.torch import checkpoint
from t9k.em.integrations.transformers import EMCallback as TransformersCallback
from t9k.em.integrations.xgboost import EMCallback as XgboostCallback
from t9k.em.keras import EMEvalCallback
from t9k.em.run import Run


class Base:
    """Stands for Logger, TrainerCallback and TrainingCallback."""

    def __init__(self) -> None:
        self.is_base_ready = True

    def on_step_end(self, *args: Any, **kwargs: Any) -> str:
        return "base"


@pytest.fixture(autouse=True)
def frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = types.ModuleType("torch")
    torch.save = lambda state, path: Path(path).write_bytes(pickle.dumps(state))  # type: ignore[attr-defined]
    modules = {
        "lightning.pytorch.loggers.logger": {"Logger": Base},
        "transformers": {"TrainerCallback": Base},
        "xgboost.callback": {"TrainingCallback": Base},
    }
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(framework_base, "_made", {})
    for name, members in modules.items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(parts[end - 1]))
        vars(sys.modules[name]).update(members)


def _points(run: Run, kind: str) -> list[tuple[int, dict[str, Any]]]:
    return [(point["at"]["step"], point["metrics"]) for point in run.metrics.get(kind, [])]


def _artifacts(workdir: Path) -> list[Path]:
    return sorted((workdir / ".em" / "artifacts").glob("*"))


def test_every_module_is_imported_without_its_framework() -> None:
    names = "lightning, transformers, xgboost, lightgbm, sklearn, torch, optuna"
    code = (
        f"import sys; from t9k.em.integrations import {names}; "
        f"print([m for m in '{names}'.split(', ') + ['numpy'] if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_missing_framework_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xgboost", None)
    monkeypatch.setitem(sys.modules, "xgboost.callback", None)
    with pytest.raises(ImportError, match="xgboost"):
        XgboostCallback(run)


def test_lightning_logger_sorts_metrics_by_prefix(run: Run) -> None:
    logger = EMLogger(run)
    assert isinstance(logger, Base)
    assert logger.is_base_ready
    logger.log_metrics({"epoch": 1, "train_loss": 0.5, "val/loss": 0.7, "lr-Adam": 0.1, "text": "x"}, step=9)
    assert _points(run, "train") == [(9, {"loss": 0.5, "lr-Adam": 0.1})]
    assert _points(run, "val") == [(9, {"loss": 0.7})]
    assert run.metrics["train"][0]["at"]["epoch"] == 1
    logger.log_hyperparams(Namespace(lr=0.1, model=object()))
    logger.log_hyperparams({"layers": (1, 2)})
    assert run.hparams.to_dict() == {"lr": 0.1, "model": "object", "layers": [1, 2]}
    assert (logger.name, logger.version) == (run.name, run.alternative_name)


def _checkpoints(workdir: Path) -> SimpleNamespace:
    for name in ("a.ckpt", "last.ckpt"):
        (workdir / name).write_bytes(name.encode())
    (workdir / "sharded").mkdir(exist_ok=True)
    (workdir / "sharded" / "0.bin").write_bytes(b"0")
    return SimpleNamespace(
        best_k_models={str(workdir / "a.ckpt"): 0.1, str(workdir / "sharded"): 0.2, str(workdir / "gone.ckpt"): 0.3},
        best_model_path=str(workdir / "a.ckpt"),
        last_model_path=str(workdir / "last.ckpt"),
    )


def test_lightning_kept_checkpoints_are_one_artifact(run: Run, workdir: Path) -> None:
    logger = EMLogger(run)
    logger.after_save_checkpoint(_checkpoints(workdir))
    assert _artifacts(workdir) == []
    logger.finalize("success")
    logger.finalize("success")  # of `test` after `fit`
    (folder,) = _artifacts(workdir)
    assert {path.name for path in folder.iterdir()} == {".artifact", "a.ckpt", "last.ckpt", "sharded"}
    assert [mark["name"] for mark in run.associations["outputs"]] == [folder.name]
    assert run.status == "Running"


def test_lightning_all_checkpoints_are_added_as_saved(run: Run, workdir: Path) -> None:
    logger = EMLogger(run, checkpoints="all")
    callback = _checkpoints(workdir)
    logger.after_save_checkpoint(callback)
    (workdir / "last.ckpt").write_bytes(b"newer")
    os.utime(workdir / "last.ckpt", ns=(1, 1))
    logger.after_save_checkpoint(callback)
    assert len(_artifacts(workdir)) == 2


def test_lightning_checkpoints_of_another_kind_are_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="'kept', 'all' or 'none'"):
        EMLogger(run, checkpoints="best")  # type: ignore[arg-type]


class _Arguments:
    output_dir = "out"

    def to_dict(self) -> dict[str, Any]:
        return {"learning_rate": 1e-5, "hub_token": "secret", "output_dir": "out", "fn": _Arguments}


def test_transformers_callback_logs_arguments_losses_and_checkpoints(run: Run, workdir: Path) -> None:
    callback = TransformersCallback(run, checkpoints=True)
    state = SimpleNamespace(is_world_process_zero=True, global_step=4, epoch=1.5)
    model = SimpleNamespace(config=SimpleNamespace(to_dict=lambda: {"hidden_size": 8}))
    callback.on_train_begin(_Arguments(), state, None, model=model)
    callback.on_log(_Arguments(), state, None, logs={"loss": 0.5, "epoch": 1.5, "grad_norm": 1.0})
    callback.on_log(_Arguments(), state, None, logs={"eval_loss": 0.6, "eval_runtime": 1.0, "epoch": 1.5})
    callback.on_save(_Arguments(), state, None)  # nothing was saved
    (workdir / "out" / "checkpoint-4").mkdir(parents=True)
    (workdir / "out" / "checkpoint-4" / "model.safetensors").write_bytes(b"weights")
    callback.on_save(_Arguments(), state, None)
    assert run.hparams.to_dict() == {
        "learning_rate": 1e-5,
        "output_dir": "out",
        "fn": "_Arguments",
        "model": {"hidden_size": 8},
    }
    assert _points(run, "train") == [(4, {"loss": 0.5, "grad_norm": 1.0})]
    assert _points(run, "val") == [(4, {"loss": 0.6, "runtime": 1.0})]
    assert [path.name for path in _artifacts(workdir)[0].iterdir() if path.name != ".artifact"] == ["checkpoint-4"]
    assert callback.on_step_end() == "base"  # type: ignore[attr-defined]


def test_transformers_callback_on_another_process_writes_nothing(run: Run) -> None:
    callback = TransformersCallback(run)
    state = SimpleNamespace(is_world_process_zero=False, global_step=4, epoch=None)
    callback.on_train_begin(_Arguments(), state, None)
    callback.on_log(_Arguments(), state, None, logs={"loss": 0.5})
    assert run.metrics == {}
    assert len(run.hparams) == 0


def test_xgboost_callback_logs_the_last_round(run: Run) -> None:
    callback = XgboostCallback(run)
    history = {"train": {"rmse": [2.0, 1.0]}, "my/val": {"rmse": [(1.5, 0.2)]}}
    assert callback.after_iteration(None, 1, history) is False
    assert _points(run, "train") == [(1, {"rmse": 1.0})]
    assert _points(run, "_my_val") == [(1, {"rmse": 1.5, "rmse_std": 0.2})]


def test_lightgbm_callback_logs_rounds_and_parameters(run: Run) -> None:
    callback = LightGbmCallback(run)
    results: list[Any] = [("training", "l2", 1.0, False), ("cv_agg", "valid l2", 1.5, False, 0.2)]
    for iteration in (0, 1):
        callback(
            SimpleNamespace(iteration=iteration, begin_iteration=0, params={"eta": 0.1}, evaluation_result_list=results)
        )
    assert _points(run, "train") == [(0, {"l2": 1.0}), (1, {"l2": 1.0})]
    assert _points(run, "valid")[0] == (0, {"l2": 1.5, "l2_std": 0.2})
    assert run.hparams.to_dict() == {"eta": 0.1}


class _Search:
    loss_curve_ = (1.0, 0.5)

    def __init__(self) -> None:
        self.best_params_ = {"C": 1.0}
        self.cv_results_ = {"params": [{"C": 0.1}, {"C": 1.0}], "mean_test_score": [0.5, 0.9], "params_C": [0.1, 1.0]}

    def get_params(self) -> dict[str, Any]:
        return {"C": 0.1, "missing": float("inf"), "estimator": self}

    def score(self, x: Any, y: Any) -> float:
        return 0.75


def test_sklearn_estimator_is_recorded(run: Run) -> None:
    assert log_estimator(run, _Search(), [[1]], [1], step=3) == {"score": 0.75}
    assert run.hparams["params"] == {"C": 0.1, "missing": float("inf"), "estimator": "_Search"}
    assert run.hparams["best_params"] == {"C": 1.0}
    assert _points(run, "test") == [(3, {"score": 0.75})]
    assert _points(run, "train") == [(1, {"loss": 1.0}), (2, {"loss": 0.5})]
    assert _points(run, "cv") == [(0, {"mean_test_score": 0.5}), (1, {"mean_test_score": 0.9})]


class _Module:
    def state_dict(self) -> dict[str, Any]:
        return {"weight": [1.0]}


class DistributedDataParallel:
    module = _Module()


@pytest.mark.parametrize("model", [_Module(), DistributedDataParallel()])
def test_torch_checkpoint_is_an_output_with_the_inner_state(run: Run, model: Any) -> None:
    artifact = checkpoint(run, model, _Module(), step=7, scheduler={"last_epoch": 1})
    assert isinstance(artifact, Artifact)
    state = pickle.loads(Path(artifact.local, "checkpoint.pt").read_bytes())
    weights = {"weight": [1.0]}
    assert state == {"model": weights, "optimizer": weights, "step": 7, "scheduler": {"last_epoch": 1}}
    assert run.associations["outputs"][0]["name"] == artifact.alternative_name
    assert not [name for name in os.listdir(run.local) if name.startswith(".checkpoint-")]


class _Study:
    study_name = "s"
    metric_names = None
    directions = (SimpleNamespace(name="MINIMIZE"),)
    best_trial = SimpleNamespace(value=0.1, params={"x": 1, "kind": "a"})


def test_optuna_callback_logs_trials_that_have_a_value(run: Run) -> None:
    callback = OptunaCallback(run)
    callback(_Study(), SimpleNamespace(values=None, number=0, params={}))
    callback(_Study(), SimpleNamespace(values=[0.1], number=1, params={"x": 1, "kind": "a"}))
    assert _points(run, "trial") == [(1, {"value": 0.1, "best_value": 0.1})]
    assert _points(run, "trial_params") == [(1, {"x": 1})]
    assert run.hparams.to_dict() == {
        "study": "s",
        "directions": ["minimize"],
        "best_params": {"x": 1, "kind": "a"},
    }


def test_other_rank_writes_nothing(run: Run, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    logger = EMLogger(run, checkpoints="all")
    logger.log_metrics({"loss": 1.0}, step=1)
    logger.after_save_checkpoint(_checkpoints(workdir))
    XgboostCallback(run).after_iteration(None, 0, {"train": {"rmse": [1.0]}})
    OptunaCallback(run)(_Study(), SimpleNamespace(values=[0.1], number=1, params={}))
    log_estimator(run, _Search(), [[1]], [1])
    assert checkpoint(run, _Module()) is None
    assert run.metrics == {}
    assert len(run.hparams) == 0
    assert _artifacts(workdir) == []


def test_failing_record_is_one_warning_and_no_error_of_the_hook(
    run: Run, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workdir / "file").touch()
    monkeypatch.setenv("EM_ARTIFACT_PARENT_DIR", str(workdir / "file" / "artifacts"))
    logger = EMLogger(run, checkpoints="all")
    with pytest.warns(RuntimeWarning, match="after_save_checkpoint failed: cannot create .*training goes on") as caught:  # noqa: PT031
        logger.after_save_checkpoint(_checkpoints(workdir))
        logger.after_save_checkpoint(_checkpoints(workdir))
        logger.finalize("success")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    callback = TransformersCallback(run, checkpoints=True)
    (workdir / "out" / "checkpoint-4").mkdir(parents=True)
    state = SimpleNamespace(is_world_process_zero=True, global_step=4, epoch=1.5)
    with pytest.warns(RuntimeWarning, match="on_save failed"):
        callback.on_save(_Arguments(), state, None)
    with pytest.raises(StoreError):  # asked for by the script itself, which must hear of it
        checkpoint(run, _Module())


def test_run_that_was_finished_too_early_does_not_end_the_training(run: Run) -> None:
    run.finish()
    env = SimpleNamespace(
        iteration=1, begin_iteration=0, params={}, evaluation_result_list=[("training", "l2", 1.0, 0)]
    )
    hooks = [
        lambda: XgboostCallback(run).after_iteration(None, 1, {"train": {"rmse": [1.0]}}),
        lambda: LightGbmCallback(run)(env),
        lambda: OptunaCallback(run)(_Study(), SimpleNamespace(values=[0.1], number=1, params={})),
        lambda: EMLogger(run).log_metrics({"loss": 1.0}, step=1),
        lambda: EMEvalCallback(run).on_test_end({"loss": 1.0}),
    ]
    for hook in hooks:
        with pytest.warns(RuntimeWarning, match="is Complete"):
            assert not hook()

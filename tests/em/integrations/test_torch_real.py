"""PyTorch, Lightning and transformers themselves: `make test-torch` installs them; skipped elsewhere."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from t9k.em.errors import InvalidInputError
from t9k.em.params import Params
from t9k.em.run import Run, load_run

torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed; `make test-torch` has it")
EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"
pytestmark = pytest.mark.filterwarnings("default")  # the frameworks' own warnings are not ours


def test_one_element_tensors_are_logged_and_others_refused(run: Run) -> None:
    parameter = torch.nn.Parameter(torch.tensor([0.5]))
    values = {
        "loss": torch.tensor(0.25, requires_grad=True),
        "parameter": parameter,
        "half": torch.tensor([[1.5]], dtype=torch.bfloat16),
        "count": torch.tensor(3),
    }
    run.log("train", values, step=torch.tensor(7), epoch=torch.tensor(1))
    (point,) = run.metrics["train"]
    assert point["metrics"] == {"loss": 0.25, "parameter": 0.5, "half": 1.5, "count": 3}
    assert (point["at"]["step"], point["at"]["epoch"]) == (7, 1)
    for bad in (torch.zeros(2), torch.zeros(0), torch.tensor(True), torch.tensor(1j), torch.empty(1, device="meta")):
        with pytest.raises(InvalidInputError, match="'bad'"):
            run.log("train", {"bad": bad}, step=1)


def test_dtypes_devices_and_scalars_are_hyperparameters(run: Run) -> None:
    run.params.update({"dtype": torch.bfloat16, "lr": torch.tensor(0.5), "betas": (0.9, 0.99)})
    assert run.params.to_dict() == {"dtype": "bfloat16", "lr": 0.5, "betas": [0.9, 0.99]}
    with pytest.raises(InvalidInputError, match="'weights'"):
        run.params["weights"] = torch.zeros(3)


def test_parse_of_data_parallel_model() -> None:
    params = Params(lambda: None)
    params.parse(dist_torch_model=torch.nn.DataParallel(torch.nn.Linear(1, 1)))
    assert params["dist"] == {"framework": "torch", "strategy": "DataParallel", "device_ids": []}
    with pytest.raises(InvalidInputError, match="dist_torch_model"):
        params.parse(dist_torch_model=torch.nn.Linear(1, 1))


def _importable(name: str) -> None:
    """Skips where Debian's PyTorch 1.13 meets Python 3.11, which refuses some of its dataclasses."""
    try:
        importlib.import_module(name)
    except (ImportError, ValueError) as error:
        pytest.skip(f"{name} does not import: {error}")


def _check_ddp(workdir: Path) -> None:
    (path,) = (workdir / ".em" / "runs").iterdir()
    loaded = load_run(str(path))
    assert loaded.status == "Complete"
    assert [point["at"]["step"] for point in loaded.metrics["train"]] == list(range(1, 21))
    assert loaded.hparams["dist"]["strategy"] == "DistributedDataParallel"
    assert loaded.hparams["dist"]["world_size"] == 2
    (mark,) = loaded.associations["outputs"]
    state = torch.load(os.path.join(mark["local"], "checkpoint.pt"))
    assert set(state) == {"model", "optimizer", "step"}
    assert list(state["model"]) == ["weight", "bias"]  # of the module inside
    launcher = yaml.safe_load((path / "platform.yaml").read_text())["launcher"]
    assert launcher["torchrun"]["WORLD_SIZE"] == "2"


def test_two_ranks_of_the_example_leave_one_run_of_rank_0(workdir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environ = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    command = [sys.executable, str(EXAMPLES / "torch_ddp.py")]
    ranks = [subprocess.Popen(command, env=environ | {"RANK": str(rank)}) for rank in range(2)]
    assert [rank.wait(300) for rank in ranks] == [0, 0]
    _check_ddp(workdir)


def test_torchrun_of_the_example_leaves_one_run_of_rank_0(workdir: Path) -> None:
    _importable("torch.distributed._shard.sharded_tensor")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*command, str(EXAMPLES / "torch_ddp.py")], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    _check_ddp(workdir)


def test_data_loader_workers_leave_the_run_alone(run: Run) -> None:
    class Data(torch.utils.data.Dataset):  # type: ignore[misc, name-defined]
        def __len__(self) -> int:
            return 8

        def __getitem__(self, index: int) -> Any:
            run.log("worker", {"i": index}, index)
            return torch.tensor(index)

    for step, batch in enumerate(torch.utils.data.DataLoader(Data(), batch_size=2, num_workers=2)):
        run.log("train", {"sum": batch.sum()}, step)
    assert list(run.metrics) == ["train"]
    assert [point["metrics"]["sum"] for point in run.metrics["train"]] == [1, 5, 9, 13]
    assert run.status == "Running"


def test_lightning_trainer_logs_and_keeps_its_checkpoint(run: Run, workdir: Path) -> None:
    _importable("torch.distributed._shard.sharded_tensor")
    lightning: Any = pytest.importorskip("lightning.pytorch")
    from t9k.em.integrations.lightning import EMLogger

    class Model(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, lr: float) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(4, 1)

        def training_step(self, batch: Any, index: int) -> Any:
            loss = self.layer(batch).pow(2).mean()
            self.log("train_loss", loss, on_step=True)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val_loss", self.layer(batch).pow(2).mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    loader = torch.utils.data.DataLoader(torch.randn(16, 4), batch_size=4)
    trainer = lightning.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=EMLogger(run),
    )
    trainer.fit(Model(lr=0.1), loader, loader)
    assert run.hparams["lr"] == 0.1
    assert [point["at"]["step"] for point in run.metrics["train"] if "loss" in point["metrics"]] == list(range(8))
    assert len(run.metrics["val"]) == 2
    (mark,) = run.associations["outputs"]
    assert [path.suffix for path in Path(mark["local"]).rglob("*") if path.name.endswith(".ckpt")] == [".ckpt"]
    assert run.status == "Running"


def test_transformers_trainer_logs_evaluates_and_saves(run: Run, workdir: Path) -> None:
    transformers: Any = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from t9k.em.integrations.transformers import EMCallback

    config = transformers.GPT2Config(vocab_size=32, n_positions=16, n_embd=8, n_layer=1, n_head=1)
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 32, (16, 8))]
    args = transformers.TrainingArguments(
        output_dir=str(workdir / "out"), max_steps=4, logging_steps=1, save_steps=2, report_to="none", use_cpu=True
    )
    trainer = transformers.Trainer(
        model=transformers.GPT2LMHeadModel(config),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[EMCallback(run, checkpoints=True)],
    )
    trainer.train()
    trainer.evaluate()
    assert [point["at"]["step"] for point in run.metrics["train"] if "loss" in point["metrics"]] == [1, 2, 3, 4]
    assert "loss" in run.metrics["val"][0]["metrics"]
    assert run.hparams["max_steps"] == 4
    assert run.hparams["model"]["n_layer"] == 1
    assert not [key for key in run.hparams if key.endswith("token")]
    assert len(run.associations["outputs"]) == 2
    for mark in run.associations["outputs"]:
        assert list(Path(mark["local"]).rglob("*.safetensors")) or list(Path(mark["local"]).rglob("*.bin"))

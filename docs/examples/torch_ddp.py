"""Data-parallel PyTorch on CPU: `torchrun --nproc-per-node 2 torch_ddp.py`, or alone."""

import os

import torch
from t9k.em.integrations.rank import create_run
from t9k.em.integrations.torch import checkpoint
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    is_distributed = "RANK" in os.environ
    if is_distributed:
        torch.distributed.init_process_group("gloo")
    run = create_run(name="torch_ddp", hparams={"lr": 0.1, "steps": 20})
    model = torch.nn.Linear(4, 1)
    if is_distributed:
        model = DistributedDataParallel(model)
        run.hparams.parse(dist_torch_model=model)
    optimizer = torch.optim.SGD(model.parameters(), lr=run.hparams.lr)
    for step in range(1, run.hparams.steps + 1):
        x = torch.randn(32, 4)
        loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log("train", {"loss": loss}, step=step)
    checkpoint(run, model, optimizer, step=run.hparams.steps)
    if is_distributed:
        torch.distributed.destroy_process_group()
    run.finish()


if __name__ == "__main__":
    main()

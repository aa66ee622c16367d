"""Data-parallel PyTorch in which the script itself lets rank 0 alone make a run and log.

`torchrun --nproc-per-node 2 torch_rank_zero.py`, or alone. With `t9k.em.integrations.rank.create_run`, as in
`torch_ddp.py`, no line has to ask for the rank.
"""

import os
import tempfile

import torch
import torch.distributed as dist
from t9k import em
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    else:
        store = f"file://{tempfile.mkdtemp()}/store"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    model = DistributedDataParallel(torch.nn.Linear(4, 1))
    if dist.get_rank() == 0:
        run = em.create_run(name="torch_rank_zero", hparams={"lr": 0.1, "steps": 20})
        run.params.parse(dist_torch_model=model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(1, 21):
        x = torch.randn(32, 4)
        loss = ((model(x) - x.sum(1, keepdim=True)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if dist.get_rank() == 0:
            run.log(type="train", metrics={"loss": loss}, step=step)
    if dist.get_rank() == 0:
        run.finish()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

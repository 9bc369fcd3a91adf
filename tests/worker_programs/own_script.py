"""Training as a user writes it for torchrun: the step calls the wrapped model itself."""

import os

import torch
from torch import nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from profiles.hooks.workload import Workload

ROWS = 512
WIDTH = 192


def training(odd: dict[int, int] | None = None) -> Workload:
    """Each worker draws batches of its own, and the first one's buffers go to all.

    Args:
        odd: Rows of single steps on this worker; `ROWS` in all others.
    """
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    for _ in range(4):
        blocks += [nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH), nn.GELU()]
    model = DistributedDataParallel(nn.Sequential(*blocks, nn.Linear(WIDTH, 1)))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1 + int(os.environ.get("RANK", "0")))
    done = 0

    def step() -> torch.Tensor:
        nonlocal done
        rows = (odd or {}).get(done, ROWS)
        done += 1
        optimizer.zero_grad()
        inputs = torch.rand(rows, WIDTH, generator=generator)
        loss = functional.mse_loss(model(inputs), inputs.mean(dim=1, keepdim=True))
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)

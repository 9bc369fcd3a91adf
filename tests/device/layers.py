"""The small model that most trainings on the device train; commands build it from this file."""

import torch
from torch import nn

from profiles.hooks.workload import Workload

ROWS, WIDTH = 64, 32


def layers(count: int = 3) -> nn.Sequential:
    blocks = ((nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Dropout(0.2)) for _ in range(count))
    return nn.Sequential(*(layer for block in blocks for layer in block))


def plain() -> Workload:
    torch.manual_seed(0)
    return plain_of_any_seed()


def plain_of_any_seed() -> Workload:
    model = layers()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = torch.randn(ROWS, WIDTH)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = (model(rows) - rows).square().mean()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)

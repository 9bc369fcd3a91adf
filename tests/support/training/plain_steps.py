"""The shortest training steps: clear gradients, loss, backward, update."""

from collections.abc import Callable

import torch
from torch import nn

from profiles.hooks.workload import Workload
from tests.support.training import models

ROWS, WIDTH = 32, 16


def plain_steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], torch.Tensor],
    *,
    detached: bool = False,
) -> Workload:
    """A training of such steps; what a step returns holds its graph unless it is detached."""

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss()
        found.backward()
        optimizer.step()
        return found.detach() if detached else found

    return Workload(model=model, optimizer=optimizer, step=step)


def two_layers() -> Workload:
    """sum(tanh(x @ a) @ b), trained with plain SGD with momentum."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(WIDTH, WIDTH, bias=False), nn.Tanh(), nn.Linear(WIDTH, 1, bias=False)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return plain_steps(model, optimizer, lambda: model(torch.ones(ROWS, WIDTH)).sum())


def layers_on_device() -> Workload:
    """A perceptron whose batch is drawn once, where the model is."""
    torch.manual_seed(0)
    model = models.perceptron(width=512)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    rows = torch.rand(4096, 512)

    def loss() -> torch.Tensor:
        error: torch.Tensor = model(rows) - rows.mean(dim=1, keepdim=True)
        return error.square().mean()

    return plain_steps(model, optimizer, loss, detached=True)


def skipping_updates(model: nn.Module, rows: torch.Tensor, device: str, factor: float) -> Workload:
    """A scaler begins too high and skips updates, the more the larger the factor of the loss: the
    optimizer's states are made some steps late."""
    optimizer = torch.optim.AdamW(model.parameters())
    scaler = torch.amp.GradScaler(device, init_scale=2.0**126, growth_interval=1000)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = model(rows).square().mean()
        scaler.scale(loss * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return Workload(model=model, optimizer=optimizer, step=step)

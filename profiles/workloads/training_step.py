"""The training step that the built-in workloads have in common."""

from collections.abc import Callable

import torch

from profiles.workload import Workload
from profiles.workloads.builtin import ADAM, ADAMW, MOMENTUM

MOMENTUM_SHARE = 0.9
"""He et al. 2015, arXiv:1512.03385, section 3.4."""


def training(
    model: torch.nn.Module,
    loss: Callable[[], torch.Tensor],
    *,
    optimizer: str,
    learning_rate: float,
) -> Workload:
    """Returns the workload whose step is forward, backward and update.

    Args:
        model: What is trained.
        loss: Fetches a batch and runs the forward pass.
        optimizer: A word of the `optimizer` setting.
        learning_rate: The optimizer's.
    """
    updates = _optimizer(optimizer, model, learning_rate)

    def step() -> torch.Tensor:
        updates.zero_grad()
        value = loss()
        value.backward()
        updates.step()
        return value.detach()

    return Workload(model=model, optimizer=updates, step=step)


def _optimizer(kind: str, model: torch.nn.Module, rate: float) -> torch.optim.Optimizer:
    parameters = model.parameters()
    # One parameter after the other, as torch does by itself on the CPU: the step is the same on
    # every device, and needs no scratch memory of the size of all parameters together.
    if kind == ADAM:
        return torch.optim.Adam(parameters, lr=rate, foreach=False)
    if kind == ADAMW:
        return torch.optim.AdamW(parameters, lr=rate, foreach=False)
    share = MOMENTUM_SHARE if kind == MOMENTUM else 0.0
    return torch.optim.SGD(parameters, lr=rate, momentum=share, foreach=False)

"""The training step that the built-in workloads have in common."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypedDict

import torch

from profiles.hooks.workload import Workload
from profiles.workloads.settings import ADAM, ADAMW, BF16, FP16, FP32, MOMENTUM, YES

MOMENTUM_SHARE = 0.9
"""He et al. 2015, arXiv:1512.03385, section 3.4."""
FIRST_SCALE = 1024.0
"""Of the loss in fp16: low enough that gradients do not overflow. A step in which they do skips
the update and so takes another course than the one recorded."""
AUTOCAST = {BF16: torch.bfloat16, FP16: torch.float16}


class HowToTrain(TypedDict):
    """Values of the settings that every workload has; see `profiles.workloads.settings`."""

    batch: int
    optimizer: str
    learning_rate: float
    precision: str
    accumulate: int


def training(model: torch.nn.Module, loss: Callable[[], torch.Tensor], how: HowToTrain) -> Workload:
    """Returns the workload whose step is forward, backward and update.

    `loss` fetches a batch and runs the forward pass.
    """
    updates = _optimizer(how["optimizer"], model, how["learning_rate"])
    precision, batches = how["precision"], how["accumulate"]
    scaler = torch.amp.GradScaler(
        torch.get_default_device().type, init_scale=FIRST_SCALE, enabled=precision == FP16
    )

    def one_batch() -> torch.Tensor:
        with _autocast(model, precision):
            value = loss()
        scaler.scale(value if batches == 1 else value / batches).backward()
        return value.detach()

    def step() -> torch.Tensor:
        updates.zero_grad()
        values = [one_batch() for _ in range(batches)]
        scaler.step(updates)
        scaler.update()
        return values[0] if batches == 1 else torch.stack(values).mean()

    return Workload(model=model, optimizer=updates, step=step)


def checkpointed(model: torch.nn.Module, word: str) -> torch.nn.Module:
    """Returns a transformers model that computes its blocks again in backward if `word` is yes."""
    if word == YES:
        untyped: Any = model
        # transformers 5 has a new name for it.
        if hasattr(untyped, "activation_checkpointing_enable"):
            untyped.activation_checkpointing_enable({"use_reentrant": False})
        else:
            untyped.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _autocast(model: torch.nn.Module, precision: str) -> AbstractContextManager[object]:
    if precision == FP32:
        return nullcontext()
    device = next(model.parameters()).device
    return torch.autocast(device.type, dtype=AUTOCAST[precision])


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

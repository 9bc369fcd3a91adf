"""A training step that can be profiled and replayed: model, optimizer, and one callable."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from profiles.errors import WorkloadError
from profiles.handed_in import bare_module, bare_optimizer, foreign_optimizer_fault


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What `plan profile` and `plan run` train.

    Attributes:
        model: The model, with its parameters on the device already.
        optimizer: The optimizer over the model's parameters, taken out of any wrapper.
        step: Runs one whole training step, from fetching the batch to `optimizer.step()`, and
            returns the loss.

    Raises:
        WorkloadError: The model or the optimizer is none, or they do not belong together.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], torch.Tensor]

    def __post_init__(self) -> None:
        bare_module(self.model)
        object.__setattr__(self, "optimizer", bare_optimizer(self.optimizer))
        fault = foreign_optimizer_fault(self.model, self.optimizer)
        if fault is not None:
            raise WorkloadError(fault)

"""A training step that can be profiled and replayed: model, optimizer, and one callable."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What `plan profile` and `plan run` train.

    Attributes:
        model: The model, with its parameters on the device already.
        optimizer: The optimizer over the model's parameters.
        step: Runs one whole training step, from fetching the batch to `optimizer.step()`, and
            returns the loss.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    step: Callable[[], torch.Tensor]

"""A training step that can be profiled and replayed: model, optimizer, and one callable."""

from collections.abc import Callable
from dataclasses import dataclass, replace

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

    def held(self) -> "Workload":
        """Returns it with each loss held until the next one is there, as training loops do.

        `loss = step()` in a loop drops the loss of one step when that of the next has been made.
        """
        return replace(self, step=_HoldingStep(self.step))


class _HoldingStep:
    """A step that keeps what it returned last."""

    def __init__(self, step: Callable[[], torch.Tensor]) -> None:
        self._step = step
        self._loss: torch.Tensor | None = None

    def __call__(self) -> torch.Tensor:
        self._loss = self._step()
        return self._loss

"""What a loop of these is, and what it leaves."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import runtime
from profiles.hooks.several_optimizers import each_optimizer

TIME_LIMIT_S = 0.5
"""No plan here need be good, and finding any at all may take longer."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a loop is kept within a budget."""

    budget: str
    plans: Path

    def arguments(self) -> dict[str, Any]:
        """Returns what `runtime.within` and the callbacks take."""
        return {"budget": self.budget, "plans": self.plans, "time_limit_s": TIME_LIMIT_S}


@dataclass(kw_only=True)
class Trained:
    """What a loop leaves.

    Attributes:
        losses: Of every step or batch, as the loop logs them.
        memory: What kept it within its budget, if anything did.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    memory: runtime.PlannedTraining | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        """Returns all that training changes, by name."""
        found = {f"model {name}": value for name, value in self.model.state_dict().items()}
        for which, optimizer in enumerate(each_optimizer(self.optimizer)):
            for number, state in optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    if isinstance(value, torch.Tensor):
                        found[f"state {which}.{number}.{name}"] = value
        return found


def assert_same_training(found: Trained, expected: Trained) -> None:
    """Asserts that every loss and all that training changes is the same, bit by bit."""
    assert found.losses == expected.losses
    tensors = found.tensors()
    for name, value in expected.tensors().items():
        assert torch.equal(tensors[name], value), name


Loop = Callable[[Settings | None], Trained]


class Around:
    """`with memory.step():` of a loop, or nothing."""

    def __init__(self, trained: Trained, settings: Settings | None) -> None:
        self._memory = None
        if settings is not None:
            self._memory = runtime.within(trained.model, trained.optimizer, **settings.arguments())
        trained.memory = self._memory

    def step(self) -> AbstractContextManager[None]:
        """Runs a step inside."""
        if self._memory is None:
            return nullcontext()
        self._memory.wait_for_plans()
        return self._memory.step()

    def close(self) -> None:
        """Ends it."""
        if self._memory is not None:
            self._memory.close()


def layers(count: int = 5, width: int = 64) -> nn.Sequential:
    """A model whose activations take most of its memory."""
    found: list[nn.Module] = []
    for _ in range(count):
        found += [nn.Linear(width, width), nn.GELU()]
    return nn.Sequential(*found)

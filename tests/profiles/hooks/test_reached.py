"""Tensors that a step can reach, and those that it cannot."""

import functools
from collections.abc import Callable, Iterator

import torch
from torch import nn

from profiles.hooks.workload import Workload, reached_tensors

HELD_BY_THE_MODULE = {"table": torch.ones(3)}
NEVER_NAMED = torch.ones(5)


def by_a_global() -> torch.Tensor:
    return HELD_BY_THE_MODULE["table"]


def reached(step: Callable[[], torch.Tensor]) -> set[int]:
    model = nn.Linear(1, 1)
    workload = Workload(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), step=step
    )
    found = reached_tensors(workload)
    assert {id(p) for p in model.parameters()} <= set(map(id, found))
    return set(map(id, found))


def test_what_a_step_closes_over_is_reached() -> None:
    batches = [torch.ones(2), torch.ones(2)]
    nested = {"pair": (torch.ones(1), [torch.ones(1)])}

    def step(default: torch.Tensor = batches[0]) -> torch.Tensor:
        return default + batches[1] + nested["pair"][0]

    expected = [*batches, nested["pair"][0], nested["pair"][1][0]]
    assert set(map(id, expected)) <= reached(step)


def test_globals_are_reached_by_the_names_in_the_code() -> None:
    def step() -> torch.Tensor:
        return by_a_global()

    found = reached(step)
    assert id(HELD_BY_THE_MODULE["table"]) in found
    assert id(NEVER_NAMED) not in found


def test_objects_generators_and_partial_functions_are_entered() -> None:
    class Loader:
        def __init__(self) -> None:
            self.held = torch.ones(4)

        def step(self) -> torch.Tensor:
            return self.held

    def stream() -> Iterator[torch.Tensor]:
        waiting = torch.ones(6)
        while True:
            yield waiting

    loader, batches = Loader(), stream()
    waiting = next(batches)
    assert id(loader.held) in reached(loader.step)
    assert id(waiting) in reached(lambda: next(batches))
    assert id(waiting) in reached(functools.partial(torch.add, waiting, waiting))


def test_gradients_are_reached() -> None:
    leaf = torch.ones(2, requires_grad=True)
    leaf.sum().backward()
    assert leaf.grad is not None
    assert id(leaf.grad) in reached(lambda: leaf.detach())

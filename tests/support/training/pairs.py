"""Two trainings that are the same, one of them under a plan that goes round the step boundary."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn
from torch.nn import functional

from planner.plan.plan import Plan
from profiles.hooks.mode_stack import op_modes
from profiles.hooks.workload import Workload
from runtime import Replay
from runtime.storage.residency import Residency
from tests.support.planning.hardest_plans import periodic
from tests.support.training.beside import beside_another
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.modes import modes_on
from tests.support.training.recorded import assert_all_resident, assert_same, snapshot


def training(kind: str = "adam", *, rows: int = 64) -> Workload:
    """A model whose parameters and states outweigh its activations, with a buffer and a frozen
    layer."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(48, 96),
        nn.BatchNorm1d(96),
        nn.Tanh(),
        nn.Linear(96, 96),
        nn.Tanh(),
        nn.Linear(96, 1),
    )
    model[3].weight.requires_grad_(False)
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=1e-3, foreach=False),
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9),
    }
    optimizer = makers[kind]()
    generator = torch.Generator(torch.get_default_device()).manual_seed(1)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        inputs = torch.rand(rows, 48, generator=generator, device=generator.device)
        loss = functional.mse_loss(model(inputs), inputs.mean(dim=1, keepdim=True))
        loss.backward()
        optimizer.step()
        return loss

    return Workload(model=model, optimizer=optimizer, step=step)


@cache
def plan_for(kind: str) -> Plan:
    return periodic(record_at_fixed_times(training(kind)))


class Pair:
    """The same training twice: with stock torch, and under a periodic plan."""

    def __init__(self, replay: Replay, plain: Workload, planned: Workload) -> None:
        self.replay = replay
        self.plain = plain
        self.planned = planned

    def step(self) -> None:
        """One step of both; the planned one is replayed."""
        self.plain.step()
        with self.replay.step() as statistics:
            # Held until the next one is there, as recording holds it.
            self.loss = self.planned.step()
        assert statistics.fallback is None

    def away(self) -> int:
        """How many storages are not on the device between two steps."""
        records = self.replay._stepper.executor.tracked.values()
        return sum(tracked.residency is not Residency.RESIDENT for tracked in records)

    def assert_same(self) -> None:
        assert_same(snapshot(self.plain), snapshot(self.planned))


@contextmanager
def pair(kind: str = "adam", steps: int = 2, plan: Plan | None = None) -> Iterator[Pair]:
    """Both trainings after some steps, everything the plan has away being away."""
    plan = beside_another(plan or plan_for(kind))
    plain, planned = training(kind), training(kind)
    replay = Replay(plan, planned.model, planned.optimizer)
    with replay:
        both = Pair(replay, plain, planned)
        for _ in range(steps):
            both.step()
        assert both.away() > 10
        assert op_modes()
        yield both
    assert modes_on() == ()
    assert_all_resident(planned)
    both.assert_same()


def first_parameter(workload: Workload) -> nn.Parameter:
    return next(workload.model.parameters())

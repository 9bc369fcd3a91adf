"""Recording and comparing real training steps: shared by the tests of recorder and runtime."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from unittest.mock import patch

import torch

from planner.plan.plan import Plan
from profiles.hooks.workload import Workload
from profiles.schema.profile import Profile, WorkloadSource
from tests.support.planning.hardest_plans import (
    everything_away,
    leaving_at_boundary,
    periodic,
    returning_at_boundary,
)
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.models import BUILDERS


@cache
def recorded(name: str) -> Profile:
    """The profile of one of the small models; recorded once."""
    source = WorkloadSource(reference=name, settings=(), seed=0)
    return record_at_fixed_times(BUILDERS[name](), source=source)


SHARE = 0.6
"""Of its peak, in which a training is swapped on line."""


def limit_bytes(name: str) -> int:
    """That share of the peak of one of the small models."""
    return int(SHARE * recorded(name).peak_bytes)


@cache
def everything_away_plan(name: str) -> Plan:
    """The plan that moves whatever one of the small models lets move."""
    return everything_away(recorded(name))


@cache
def periodic_plan(name: str) -> Plan:
    """The same round the step boundary, each host copy serving as many swaps as it can."""
    return periodic(recorded(name))


@cache
def leaving_plan(name: str) -> Plan:
    """That plan with copies to the host under way at the boundary."""
    return leaving_at_boundary(periodic_plan(name))


@cache
def returning_plan(name: str) -> Plan:
    """That plan with copies back under way at the boundary."""
    return returning_at_boundary(periodic_plan(name))


def snapshot(workload: Workload) -> dict[str, torch.Tensor]:
    """A copy of every number that training keeps, in host memory.

    An allocator would count it beside the trainings that it is compared with.
    """
    return {name: kept.to("cpu", copy=True) for name, kept in _kept(workload).items()}


def _kept(workload: Workload) -> dict[str, torch.Tensor]:
    tensors = dict(workload.model.state_dict())
    for number, state in enumerate(workload.optimizer.state.values()):
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{number}.{key}"] = value
    return {name: tensor.detach() for name, tensor in tensors.items()}


@contextmanager
def without_update(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Has an optimizer skip its updates, as a loss scaler has it: no hook of it runs."""

    def skipped(closure: Callable[[], float] | None = None) -> float | None:
        return None if closure is None else closure()

    with patch.object(optimizer, "step", skipped):
        yield


def differing(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors of two snapshots, of one training each, that differ in any bit."""
    assert one.keys() == other.keys()
    return [
        name
        for name, tensor in one.items()
        if not torch.equal(
            tensor.contiguous().flatten().view(torch.uint8),
            other[name].contiguous().flatten().view(torch.uint8),
        )
    ]


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Fails unless two snapshots are equal bit by bit."""
    assert differing(one, other) == []


def assert_all_resident(workload: Workload) -> None:
    """Fails if any storage that the model or the optimizer holds is empty."""
    for name, tensor in _kept(workload).items():
        assert tensor.untyped_storage().nbytes() >= tensor.nbytes, name

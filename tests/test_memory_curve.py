"""Measured memory is the planned memory, in every slot, to the byte; and what a difference says."""

from collections.abc import Callable

import pytest
import torch

from planner.memory import slot_memory
from planner.plan import Plan
from planner.solve import solve
from profiles.dispatch import storages_of
from profiles.errors import BudgetError
from profiles.profile import Profile, WorkloadSource
from profiles.reached import reached_tensors
from profiles.record import record
from profiles.workload import Workload
from runtime.load import LoadedPlan
from tests.steps import STEPS
from tests.training import FAST_LINK

TRAINED_STEPS = 6
SHARES = (0.6, 0.4, 0.0)
"""Of the peak; none is met by 0, so it stands for the smallest budget."""


def seeded(build: Callable[[], Workload]) -> Workload:
    torch.manual_seed(0)
    return build()


def recorded(build: Callable[[], Workload]) -> Profile:
    source = WorkloadSource(reference="", settings=(), seed=0)
    return record(seeded(build), source=source, link=FAST_LINK, warmup_steps=1, timed_steps=1)


def plan_within(profile: Profile, share: float) -> Plan:
    """A plan for a share of the peak, or for the smallest budget if that is more."""
    peak_bytes = max(memory.resident_bytes for memory in slot_memory(profile))
    try:
        return solve(profile, budget_bytes=max(1, int(share * peak_bytes)), time_limit_s=1.0)
    except BudgetError as error:
        return solve(profile, budget_bytes=error.smallest_budget_bytes, time_limit_s=1.0)


def assert_as_planned(plan: Plan, build: Callable[[], Workload]) -> None:
    """Trains under the budget and compares every slot of every step that follows the plan."""
    workload = seeded(build)
    with LoadedPlan(plan).attach(workload.model, workload.optimizer) as replay:
        replay.count(storages_of(reached_tensors(workload), torch.device("cpu")))
        for _ in range(TRAINED_STEPS):
            with replay.step():
                loss = workload.step()
    del loss
    assert [step.fallback for step in replay.steps] == [None] * TRAINED_STEPS
    assert all((step.peak_bytes or 0) <= plan.budget_bytes for step in replay.steps)
    compared = [step for step in replay.steps if step.compares_memory]
    assert len(compared) >= TRAINED_STEPS - 1
    assert [str(step.memory_difference) for step in compared if step.memory_difference] == []


@pytest.mark.parametrize("name", STEPS)
def test_measured_memory_is_the_planned_memory(name: str) -> None:
    profile = recorded(STEPS[name])
    for share in SHARES:
        assert_as_planned(plan_within(profile, share), STEPS[name])

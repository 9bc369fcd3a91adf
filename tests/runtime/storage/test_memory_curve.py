"""Measured memory is the planned memory, in every slot, to the byte; and what a difference says."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache, partial

import pytest
import torch

from planner.plan.plan import Plan, Without
from planner.solving import solve
from profiles.hooks.several_optimizers import each_optimizer
from profiles.hooks.workload import Workload
from profiles.schema.errors import BudgetError
from profiles.schema.profile import Profile
from runtime.proof.limited_device import reached_storages
from runtime.replay.load import LoadedPlan
from runtime.storage.memory_curve import MemoryDifference
from tests.support.training.built_in import PLAINLY_TRAINED, built, names
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.recorded import assert_same, snapshot, without_update
from tests.support.training.steps import STEPS

pytestmark = pytest.mark.cpu_only

TRAINED_STEPS = 6
SETTLES_LATE = ("RAdam, one by one", "RAdam, foreach", "LBFGS")
"""Their first steps need less than later ones: RAdam rectifies from its sixth on, and LBFGS keeps a
hundred directions. Recorded is one after all that are trained."""

SHARES = (0.6, 0.4, 0.0)
"""Of the peak, falling; none is met by 0, so it stands for the smallest budget."""


def seeded(build: Callable[[], Workload]) -> Workload:
    torch.manual_seed(0)
    return build()


def recorded(build: Callable[[], Workload], warmup_steps: int = 2) -> Profile:
    return record_at_fixed_times(seeded(build), warmup_steps=warmup_steps)


@cache
def recorded_once(name: str) -> Profile:
    return recorded(STEPS[name], TRAINED_STEPS if name in SETTLES_LATE else 2)


def step_of(workload: Workload, number: int) -> torch.Tensor:
    skips = number in SKIPPING
    with without_update(each_optimizer(workload.optimizer)[0]) if skips else nullcontext():
        return workload.step()


def plans_within(profile: Profile) -> Iterator[Plan]:
    """Plans for shares of the peak, down to the smallest budget: it stands for all below it."""
    for share in SHARES:
        try:
            plan = first_plan(profile, max(1, int(share * profile.peak_bytes)))
        except BudgetError as error:
            yield first_plan(profile, error.smallest_budget_bytes)
            return
        yield plan


def first_plan(profile: Profile, budget_bytes: int) -> Plan:
    """Not searched for until some time is over, so that it is the same on each machine.

    Over so fast a link nothing is worth running again; `tests.runtime.recompute` compares that.
    """
    return solve(profile, budget_bytes=budget_bytes, without=Without.RECOMPUTE, stop=lambda: True)


def differences(plan: Plan, build: Callable[[], Workload]) -> list[MemoryDifference]:
    """Trains under the budget; returns where memory was not as planned."""
    workload = seeded(build)
    with LoadedPlan(plan).attach(workload.model, workload.optimizer) as replay:
        for _ in range(TRAINED_STEPS):
            replay.count(reached_storages(workload, torch.device("cpu")))
            with replay.step():
                loss = workload.step()
    del loss
    assert replay.boundary_restores == 0
    assert [step.fallback for step in replay.steps] == [None] * TRAINED_STEPS
    assert all((step.peak_bytes or 0) <= plan.budget_bytes for step in replay.steps)
    compared = [step for step in replay.steps if step.compares_memory]
    assert len(compared) >= TRAINED_STEPS - 1
    return [step.memory_difference for step in compared if step.memory_difference is not None]


@pytest.mark.parametrize("name", STEPS)
def test_measured_memory_is_the_planned_memory(name: str) -> None:
    settles_late = name in SETTLES_LATE
    profile = recorded_once(name)
    for plan in plans_within(profile):
        found = differences(plan, STEPS[name])
        if settles_late:
            found = [difference for difference in found if difference.excess_bytes > 0]
        assert list(map(str, found)) == []


SKIPPING = (3, 4)


# An update of LBFGS goes forward and backward itself: without it the step is another one.
@pytest.mark.parametrize("name", [name for name in STEPS if name != "LBFGS"])
def test_a_step_that_skips_an_update_keeps_to_the_budget_likewise(name: str) -> None:
    """As where a loss scaler skips it: of several optimizers the first does."""
    *_, plan = plans_within(recorded_once(name))
    plain = seeded(STEPS[name])
    expected = [step_of(plain, number).detach() for number in range(TRAINED_STEPS)]
    workload = seeded(STEPS[name])
    with LoadedPlan(plan).attach(workload.model, workload.optimizer) as replay:
        for number in range(TRAINED_STEPS):
            replay.count(reached_storages(workload, torch.device("cpu")))
            with replay.step():
                loss = step_of(workload, number)
            assert torch.equal(loss, expected[number])
    del loss
    assert_same(snapshot(workload), snapshot(plain))
    assert replay.fallbacks == 0
    assert all((step.peak_bytes or 0) <= plan.budget_bytes for step in replay.steps)
    assert replay.shortcuts == len(SKIPPING)


@pytest.mark.parametrize("name", ["zero_grad last", "loss with its graph", "carried state"])
def test_the_whole_peak_is_budget_enough(name: str) -> None:
    """The loss that a loop holds from the step before is part of the peak."""
    profile = recorded(STEPS[name])
    plan = first_plan(profile, profile.peak_bytes)
    assert plan.swaps == ()
    assert differences(plan, STEPS[name]) == []


@pytest.mark.parametrize(("reference", "settings"), PLAINLY_TRAINED, ids=names)
def test_so_it_is_for_built_in_workloads(reference: str, settings: dict[str, str]) -> None:
    build = partial(built, reference, settings)
    for plan in plans_within(recorded(build)):
        assert list(map(str, differences(plan, build))) == []

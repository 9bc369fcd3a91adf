"""What a step lets go of sooner than the recorded one did is not brought back."""

from functools import cache

import pytest
import torch
from torch import nn

from planner.plan.plan import Plan
from profiles.hooks.workload import Workload
from profiles.schema.profile import Profile
from runtime import LoadedPlan
from tests.support.planning.hardest_plans import everything_away, periodic
from tests.support.planning.recipes import with_rebuilds
from tests.support.training.beside import beside_another
from tests.support.training.fixed_times import record_at_fixed_times
from tests.support.training.recorded import assert_all_resident, assert_same, snapshot

WIDTH = 32
PLANS = {
    "everything away": everything_away,
    "periodic": periodic,
    "rebuilt": with_rebuilds,
    "rebuilt and swapped": lambda profile: with_rebuilds(profile, swapping=True),
}


class Training:
    """A training of two batches a step, which may keep what the first one made until the end."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(3)]
        self.model = nn.Sequential(*blocks)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2, foreach=False)
        self.drops_early = False

    def workload(self) -> Workload:
        return Workload(model=self.model, optimizer=self.optimizer, step=self.step)

    def step(self) -> torch.Tensor:
        self.optimizer.zero_grad()
        kept = []
        for _ in range(2):
            rows = torch.randn(48, WIDTH)
            hidden = self.model[:2](rows)
            loss = (self.model[2](hidden) - rows).square().mean()
            loss.backward()
            if not self.drops_early:
                kept += [rows, hidden.detach()]
            del rows, hidden
        self.optimizer.step()
        assert all(tensor.isfinite().all() for tensor in kept)
        return loss.detach()


@cache
def recorded() -> Profile:
    return record_at_fixed_times(Training().workload())


@cache
def plan_named(name: str) -> Plan:
    return beside_another(PLANS[name](recorded()))


def step_of(training: Training, number: int) -> torch.Tensor:
    torch.manual_seed(number)
    return training.step()


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.filterwarnings("error::runtime.FallbackWarning")
def test_what_is_freed_early_stays_away_and_the_plan_goes_on(name: str) -> None:
    plain, training = Training(), Training()
    plan = plan_named(name)
    with LoadedPlan(plan).attach(training.model, training.optimizer) as replay:
        for number, drops_early in enumerate((False, False, True, False, True, True, False)):
            training.drops_early = drops_early
            with replay.step():
                loss = step_of(training, number)
            assert torch.equal(loss, step_of(plain, number))
    steps = list(replay.steps)
    assert [step.fallback or step.left_plan for step in steps] == [None] * len(steps)
    as_planned = [step.skipped_swaps == 0 for step in steps[1:]]
    assert as_planned == [True, name == "rebuilt", True, *[name == "rebuilt"] * 2, True]
    assert max(step.peak_bytes or 0 for step in steps) <= plan.budget_bytes
    assert_same(snapshot(training.workload()), snapshot(plain.workload()))
    assert_all_resident(training.workload())

"""Plans that drop and swap, and their bounds, against the exact least on tiny random steps.

`tests.benchmarks.recompute.bench_recompute` is the same in large.
"""

import math
from functools import cache
from itertools import islice

import pytest

from planner.ilp.deadline import Deadline, SolverName
from planner.ilp.solver import StallBound, relaxed_bound, whole_bound
from planner.plan.plan import Without
from planner.recompute.places import placed_offers
from planner.recompute.recipes import StepEffects
from planner.solving import solve
from tests.support.commands import PATIENCE_S
from tests.support.recompute.oracle import recompute_jobs
from tests.support.recompute.plans import check_recompute_plan

JOBS = dict(islice(recompute_jobs(range(1000)), 36))
# In the first two named a step that drops has no gap left that helps, and still does not fit.
PLANNED = sorted({45, 120, *islice(JOBS, 18)})


@cache
def least_us(seed: int) -> float:
    return JOBS[seed].least_beyond_us()


def slack_us(seed: int) -> float:
    """What sums of floats, and the solver's tolerance, may differ by."""
    return 1e-6 * (1 + least_us(seed) + JOBS[seed].profile.step_us)


@pytest.mark.parametrize("solver", SolverName)
@pytest.mark.parametrize("seed", JOBS)
def test_no_bound_is_above_the_optimum(seed: int, solver: SolverName) -> None:
    job = JOBS[seed]
    problem, offers = job.problem(), job.offers()
    # From now on: the suite itself may take longer.
    patience = Deadline.within(PATIENCE_S)
    loose = relaxed_bound(problem, solver, patience, offers)
    tight = whole_bound(problem, solver, patience, mip_gap=0.0, offers=offers)
    assert loose.stall_us <= least_us(seed) + slack_us(seed)
    assert tight.stall_us <= least_us(seed) + slack_us(seed)
    assert tight.proven
    assert loose.stall_us <= tight.stall_us + slack_us(seed)


@pytest.mark.parametrize("seed", JOBS)
def test_what_is_cut_off_is_not_proven_away(seed: int) -> None:
    job = JOBS[seed]
    problem, patience = job.problem(), Deadline.within(PATIENCE_S)
    offers = placed_offers(StepEffects(job.profile), problem, whole_bytes=1)

    def bound(cutoff_us: float) -> StallBound:
        solver = SolverName.HIGHS
        return whole_bound(
            problem, solver, patience, mip_gap=0.0, cutoff_us=cutoff_us, offers=offers
        )

    free = bound(math.inf)
    above = bound(least_us(seed) + job.profile.step_us / 100)
    assert above.proven
    assert above.stall_us == pytest.approx(free.stall_us, abs=slack_us(seed))
    # No solution is left: that says nothing of the plans there are.
    below = bound(free.stall_us / 2)
    assert below.stall_us <= free.stall_us / 2 + slack_us(seed)


@pytest.mark.parametrize("seed", PLANNED)
def test_plans_are_no_better_than_the_optimum_and_no_worse_than_swaps(seed: int) -> None:
    job = JOBS[seed]
    both, alone = (
        solve(
            job.profile,
            budget_bytes=job.budget_bytes,
            min_size_bytes=1,
            boundary=job.boundary,
            without=without,
            time_limit_s=PATIENCE_S,
        )
        for without in (Without.NOTHING, Without.RECOMPUTE)
    )
    check_recompute_plan(both, job.profile)
    beyond_us = both.certificate.beyond_us
    assert beyond_us >= least_us(seed) - slack_us(seed)
    assert beyond_us <= alone.certificate.simulated_stall_us + slack_us(seed)
    assert both.certificate.bound_beyond_us <= least_us(seed) + slack_us(seed)


def test_the_jobs_are_not_all_easy() -> None:
    waits = [seed for seed, job in JOBS.items() if job.least_swap_us() > 0]
    helped = [seed for seed in waits if least_us(seed) < JOBS[seed].least_swap_us()]
    mixed = [seed for seed in helped if least_us(seed) > 0]
    assert len(waits) > 20
    assert len(helped) > 10
    assert len(mixed) > 5

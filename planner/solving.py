"""From a profile and a budget to a plan, in one round or two: as long as looking on may pay."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from planner.build_plan import Solution, build_plan
from planner.groundwork import Groundwork
from planner.ilp.deadline import Deadline, OnIncumbent, SolverName, never
from planner.one_round import Round, solved
from planner.plan.plan import Boundary, Plan, Proof, Without
from planner.problem.problem import problem_of
from planner.problem.settings import SETTINGS, WITHOUT_BY_DEFAULT
from profiles.schema.errors import BudgetError
from profiles.schema.profile import Link, Profile
from profiles.schema.progress import Progress, silent


def solve(
    profile: Profile,
    *,
    budget_bytes: int,
    link: Link | None = None,
    host_budget_bytes: int | None = None,
    solver: SolverName = SolverName.HIGHS,
    time_limit_s: float = 60.0,
    min_size_bytes: int | None = None,
    boundary: Boundary = Boundary.PERIODIC,
    without: Without = WITHOUT_BY_DEFAULT,
    progress: Progress | None = None,
    on_incumbent: OnIncumbent | None = None,
    stop: Callable[[], bool] = never,
) -> Plan:
    """Plans a step for a budget.

    Args:
        profile: The step.
        budget_bytes: Device bytes to stay within.
        link: The link to plan for; the profile's if None.
        host_budget_bytes: Host bytes to stay within; None for no limit, 0 for no swaps.
        solver: Which solver PuLP drives.
        time_limit_s: Wall time for the whole of it; what is needed for any plan at all may exceed
            it. After 15 s for 1,000 ops planning goes on only while the plan is more than 1% of
            the step from its bound (`planner.problem.settings`).
        min_size_bytes: Smaller storages stay; if None, what is left out is little of the budget
            (`planner.problem.smallest_size`).
        boundary: Whether swaps may wrap round the step boundary.
        without: What is not to be used: swaps, or dropping storages and running ops again.
        progress: Called with how far it is.
        on_incumbent: Called with every better plan and bound.
        stop: Asked often; once it says so, the best plan so far is returned.

    Returns:
        A verified plan; an empty one if the step fits the budget as it is.

    Raises:
        BudgetError: The budget cannot be met; it carries the smallest that can.
        SolverError: The solver is missing or failed.
    """
    started_s = time.monotonic()
    problem = problem_of(
        profile,
        budget_bytes=budget_bytes,
        link=link or profile.link,
        host_budget_bytes=0 if without is Without.SWAP else host_budget_bytes,
        min_size_bytes=min_size_bytes,
        boundary=boundary,
    )
    thousands = len(profile.ops) / 1000
    ends_s = max(time_limit_s - SETTINGS.writing_seconds * thousands, time_limit_s / 2)
    deadline = Deadline(started_s + ends_s, stop)
    with closing(Groundwork(profile, problem, solver, deadline)) as ground:
        work = Round(ground, deadline, progress or silent, on_incumbent)
        solution = _in_rounds(work, without)
    seconds = time.monotonic() - started_s
    return build_plan(profile, solution, solver=solver, seconds=seconds, without=without)


def _in_rounds(work: Round, without: Without) -> Solution:
    """A quick round; one with all the time that is left only if that one may gain by it."""
    quick_s = SETTINGS.quick_seconds * max(1.0, len(work.ground.profile.ops) / 1000)
    if quick_s > SETTINGS.quick_share * work.deadline.left_s:
        return solved(work, without)
    quick = work.deadline.first(quick_s)
    try:
        known = solved(replace(work, deadline=quick), without)
    except BudgetError:
        if work.deadline.over or not quick.over:
            raise
        return solved(work, without)
    if work.deadline.over or _is_near(work, known):
        return known
    return _best_of(work, known, solved(replace(work, known=known), without))


def _is_near(work: Round, solution: Solution) -> bool:
    """Whether what may be left to gain hardly pays for looking on."""
    over_us = work.beyond_us(solution) - solution.bound_beyond_us
    return over_us <= SETTINGS.quick_gap * work.problem.compute_us


def _best_of(work: Round, *solutions: Solution) -> Solution:
    """Returns the best with the tightest bound: both rounds bound all plans."""
    best = min(solutions, key=work.beyond_us)
    tightest = max(solutions, key=lambda solution: solution.bound_beyond_us)
    bound_us, compute_us = tightest.bound_beyond_us, work.problem.compute_us
    good = SETTINGS.is_good(work.beyond_us(best), bound_us, compute_us)
    return replace(
        best,
        loose_bound_beyond_us=max(solution.loose_bound_beyond_us for solution in solutions),
        bound_beyond_us=bound_us,
        bound_source=tightest.bound_source,
        proof=Proof.OPTIMAL if good else best.proof,
    )
